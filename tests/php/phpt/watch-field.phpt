--TEST--
A watched field is read at its address and recorded when it changes; a wild address is an error
--SKIPIF--
<?php
if (!is_readable('/proc/self/mem') || !shell_exec('command -v nm')) die('skip needs /proc/self/mem and nm');
if (ZEND_THREAD_SAFE) die('skip the globals of a thread are no symbols');
?>
--FILE--
<?php
require __DIR__ . '/trace.inc';
function tick() { return getmypid(); }

// Where the interpreter's symbols are, and in its globals the field that error_reporting() sets.
$exe = '/proc/' . getmypid() . '/exe';
preg_match('~^(\w+)-.* 00000000 .* ' . preg_quote(readlink($exe)) . '$~m', file_get_contents('/proc/' . getmypid() . '/maps'), $first);
$base = hexdec($first[1]);
foreach (explode("\n", shell_exec("nm -D $exe")) as $line) {
    $words = explode(' ', trim($line));
    if (count($words) === 3) $at[explode('@', $words[2])[0]] = $base + hexdec($words[0]);
}
$memory = fopen('/proc/' . getmypid() . '/mem', 'r');
stream_set_read_buffer($memory, 0);
$globals = function () use ($memory, $at) { fseek($memory, $at['executor_globals']); return fread($memory, 2048); };
error_reporting(0x5a5a5a);
$seen = $globals();
error_reporting(0x3c3c3c);
$now = $globals();
for ($reporting = 0; $reporting < 2048 && (substr($seen, $reporting, 4) !== pack('l', 0x5a5a5a)
    || substr($now, $reporting, 4) !== pack('l', 0x3c3c3c)); $reporting += 4);

$lines = [
    'reporting' => [$at['executor_globals'] + $reporting, 'i32'],
    'hidden_token' => [$at['executor_globals'] + $reporting, 'i32'],
    'nothing' => [$at['executor_globals'], 'zval'],
    'sapi' => [$at['sapi_module'], 'cstr'],
    'low' => [0x10, 'u64'],
    'kernel' => [PHP_INT_MAX, 'u8'],
    'wild_text' => [$at['executor_globals'] + $reporting, 'str'],
    'no_text' => [$at['executor_globals'], 'str'],
];
$file = '';
foreach ($lines as $name => [$address, $type]) $file .= sprintf("%s=0x%x:%s\n", $name, $address, $type);
file_put_contents(str_replace('.trace', '.watch', t_file()), $file . "odd=0x:i8\nodd=0x1:long\n");
t_on(ON, 1, watch: 1);
mark();
tick();
tick();
error_reporting(-1);
tick();
mark();
foreach (t_records() as $r) {
    if ($r['kind'] === 6) echo "$r[function] = $r[values]\n";
    elseif ($r['function'] === 'tick' && $r['kind'] === 1) echo "tick\n";
}
?>
--EXPECT--
reporting = 3947580
hidden_token = (redacted)
nothing = null
sapi = "cli"
low = (unreadable)
kernel = (unreadable)
wild_text = (unreadable)
no_text = null
tick
tick
reporting = -1
tick
