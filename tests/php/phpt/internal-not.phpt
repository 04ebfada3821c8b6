--TEST--
Internal functions are left alone unless they are asked for; parameters, too
--FILE--
<?php
require __DIR__ . '/trace.inc';
function user($x) { return strtoupper($x); }
t_on(ON);
mark();
user('abc');
mark();
t_dump();
?>
--EXPECTF--
> user() internal-not.php:%d
< user = 
