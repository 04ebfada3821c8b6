--TEST--
A file that is cut short while it is mapped: the script does not notice
--FILE--
<?php
require __DIR__ . '/trace.inc';
function call($n) { return $n; }
t_on();
call(1);
$file = fopen(t_file(), 'r+');
ftruncate($file, 0);
for ($n = 0; $n < 20000; $n++) call($n);
echo "alive\n";
?>
--EXPECT--
alive
