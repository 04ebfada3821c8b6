--TEST--
Only a fault in a mapping of ours is mended: not a signal that somebody sent, not where the parent's was
--SKIPIF--
<?php
if (!extension_loaded('pcntl') || !extension_loaded('posix')) die('skip needs pcntl and posix');
if (!file_exists(ini_get('extension_dir') . '/ffi.so')) die('skip needs ffi');
if (php_uname('m') !== 'x86_64') die('skip the number of rt_sigqueueinfo is x86_64\'s');
?>
--FILE--
<?php
// FFI is not loaded by the runner: a PHP of its own, in a directory of its own.
$own = sys_get_temp_dir() . '/nbguard-fault-' . getmypid();
mkdir($own, 0711);
$code = <<<'X'
const SIGBUS_ = 7;
$c = FFI::cdef('long syscall(long number, ...);', 'libc.so.6');
// This very process gets a SIGBUS that says `code` and the address.
$signal = function (int $code, int $at) use ($c) {
    $info = FFI::new('char[128]');
    FFI::memcpy($info, pack('lllxxxxQ', SIGBUS_, 0, $code, $at), 24);
    $c->syscall(129, getmypid(), SIGBUS_, FFI::addr($info));
};
preg_match('~^(\w+)-.*\.trace$~m', file_get_contents('/proc/' . getmypid() . '/maps'), $found);
$at = hexdec($found[1]) + 8192;
$in_child = function (string $name, callable $what) {
    $pid = pcntl_fork();
    if (!$pid) { $what(); posix_kill(getmypid(), SIGKILL); }
    pcntl_waitpid($pid, $status);
    echo $name, ': ', pcntl_wtermsig($status) === SIGKILL ? 'goes on' : 'ended by ' . pcntl_wtermsig($status), "\n";
};
// A child has its own file as soon as the interpreter comes by.
$come_by = function () { for ($n = 0; $n < 1000; $n++) usleep(10); };
$own_at = function () {
    preg_match('~^(\w+)-.*/' . getmypid() . '-\d+\.trace$~m', file_get_contents('/proc/' . getmypid() . '/maps'), $found);
    return $found ? hexdec($found[1]) + 8192 : 0;
};
$in_child('a fault', function () use ($signal, $come_by, $own_at) { $come_by(); $signal(2, $own_at()); });
$in_child('a signal', function () use ($signal, $come_by, $own_at) { $come_by(); $signal(-1, $own_at()); });
// The first only takes our handler away: a real fault would come again by itself.
rename(ini_get('nbguard.directory'), ini_get('nbguard.directory') . '-away');
$in_child('where the parent had it', function () use ($signal, $come_by, $at) { $come_by(); $signal(2, $at); $signal(2, $at); });
X;
$php = getenv('TEST_PHP_EXECUTABLE') . ' -n -d extension=' . getenv('NBGUARD_SO') . " -d extension=ffi -d nbguard.directory=$own";
foreach (['pcntl', 'posix'] as $name) {
    if (file_exists(ini_get('extension_dir') . "/$name.so")) $php .= " -d extension=$name";
}
echo shell_exec("$php -r " . escapeshellarg($code) . ' 2>&1');
shell_exec('rm -r ' . escapeshellarg($own) . '*');
?>
--EXPECT--
a fault: goes on
a signal: ended by 7
where the parent had it: ended by 7
