--TEST--
nbguard.enable=0, or a directory that cannot be trusted: nothing is done, and phpinfo() says why
--FILE--
<?php
$php = getenv('TEST_PHP_EXECUTABLE') . ' -n -d extension=' . getenv('NBGUARD_SO');
$show = ' -r ' . escapeshellarg('ob_start(); phpinfo(INFO_MODULES); preg_match("/^state => .*/m", ob_get_clean(), $m); echo $m[0], "\n";');
$open = sys_get_temp_dir() . '/nbguard-open-' . getmypid();
mkdir($open);
chmod($open, 0777);
echo shell_exec("$php -d nbguard.enable=0 $show");
echo str_replace($open, 'DIR', shell_exec("$php -d nbguard.directory=$open $show"));
echo shell_exec("$php -d nbguard.directory=/proc/nothing $show");
rmdir($open);
?>
--EXPECTF--
state => nbguard.enable is off
state => not traceable: DIR is not root's alone
state => not traceable: /proc/nothing: %s
