--TEST--
A fork has a file of its own; the parent's is left alone
--SKIPIF--
<?php if (!function_exists('pcntl_fork')) die('skip no pcntl'); ?>
--FILE--
<?php
require __DIR__ . '/trace.inc';
function here($who) { return $who; }
t_on();
$parent = t_file();
here('before');
$child = pcntl_fork();
if (!$child) {
    for ($n = 0; $n < 3000 && !file_exists(t_file()); $n++) { here('child, off'); usleep(1000); }
    t_on(ON | VALUES, 7);
    here('child');
    $header = t_header();
    echo 'child: ', $header['pid'] === getmypid() ? 'own' : 'other', ' file, session ', $header['session'], "\n";
    foreach (t_records() as $r) if ($r['function'] === 'here' && $r['kind'] === 1) echo "  here($r[values])\n";
    $file = t_file();
    exit(0);
}
pcntl_waitpid($child, $status);
here('after');
echo 'status ', $status, "\n";
foreach (t_records() as $r) if ($r['function'] === 'here' && $r['kind'] === 1) echo "parent: here($r[values])\n";
var_dump(t_file() === $parent, count(glob(dirname($parent) . "/$child-*.trace")));
?>
--EXPECT--
child: own file, session 7
  here($who = "child")
status 0
parent: here($who = "before")
parent: here($who = "after")
bool(true)
int(0)
