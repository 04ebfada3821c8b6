--TEST--
exit in the middle: every open call gets its end
--FILE--
<?php
require __DIR__ . '/trace.inc';
function one() { two(); }
function two() { register_shutdown_function('last'); exit; }
function last() { mark(); t_dump(all: false); }
t_on();
mark();
one();
?>
--EXPECTF--
> one() exit.php:%d
  > two() exit.php:%d
  < two = exit [thrown]
< one = exit [thrown]
%A
