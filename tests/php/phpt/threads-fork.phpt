--TEST--
A fork by a thread that is not traced: nothing of the owner's is touched, and nothing is traced in it
--SKIPIF--
<?php if (!function_exists('threads_start')) die('skip this PHP is not thread-safe');
if (!function_exists('pcntl_fork')) die('skip no pcntl'); ?>
--FILE--
<?php
require __DIR__ . '/trace.inc';
function here($x) { return $x; }
t_on();
$code = <<<'CODE'
function child() {}
$child = pcntl_fork();
if (!$child) {
    // Longer than it takes to look for a switch.
    for ($n = 0; $n < 1500; $n++) { child(); usleep(1000); }
    ob_start();
    phpinfo(INFO_MODULES);
    preg_match("/^state => .*/m", ob_get_clean(), $m);
    echo $m[0], "\n";
    pcntl_exec('/bin/true');
}
pcntl_waitpid($child, $status);
echo "status $status\n";
CODE;
threads_join(threads_start($code));
here(getmypid());
foreach (t_records() as $r) if ($r['kind'] === 1 && in_array($r['function'], ['here', 'child'])) echo $r['function'], "\n";
echo count(glob(dirname(t_file()) . '/' . getmypid() . '-*')), " file\n";
?>
--EXPECT--
state => not traced: this process was forked by a thread that was not
status 0
here
1 file
