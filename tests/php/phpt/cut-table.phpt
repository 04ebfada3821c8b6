--TEST--
A switch table that is cut short while it is mapped: the script does not notice
--FILE--
<?php
// A table of its own: others use the one of this run.
$php = getenv('TEST_PHP_EXECUTABLE') . ' -n -d extension=' . getenv('NBGUARD_SO');
$own = sys_get_temp_dir() . '/nbguard-cut-' . getmypid();
mkdir($own, 0711);
$code = <<<'X'
$table = fopen(ini_get('nbguard.directory') . '/switch', 'r+');
usleep(200000);
ftruncate($table, 0);
// The thread that waits beside the interpreter looks once in a second.
$until = hrtime(true) + 25e8;
while (hrtime(true) < $until) usleep(10000);
echo "alive\n";
X;
echo shell_exec("$php -d nbguard.directory=$own -r " . escapeshellarg($code)) ?? "it has ended\n";
shell_exec('rm -r ' . escapeshellarg($own));
?>
--EXPECT--
alive
