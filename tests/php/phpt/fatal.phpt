--TEST--
A fatal error in the middle: every open call gets its end
--FILE--
<?php
require __DIR__ . '/trace.inc';
function one() { two(); }
function two() { register_shutdown_function('last'); ini_set('memory_limit', '8M'); str_repeat('x', 1 << 26); }
function last() { mark(); t_dump(); }
t_on();
mark();
one();
?>
--EXPECTF--
%AFatal error: Allowed memory size%A
> one() fatal.php:%d
  > two() fatal.php:%d
  < two = %s [thrown]
< one = %s [thrown]
%A
