--TEST--
Internal functions, when they are asked for
--FILE--
<?php
require __DIR__ . '/trace.inc';
t_on(ON | VALUES | INTERNAL);
mark();
strtoupper('abc');
@opendir('/nowhere/at/all');
array_map(fn($x) => $x + 1, [1]);
try { new DateTime('no date'); } catch (Exception $e) {}
mark();
t_dump();
?>
--EXPECTF--
> strtoupper($string = "abc") internal.php:%d [internal]
< strtoupper = "ABC" [internal]
> opendir($directory = "/nowhere/at/all") internal.php:%d [internal]
< opendir = false [internal] [failed]
> array_map($callback = Closure#%d, $array = [1]) internal.php:%d [internal]
  > {closure}($x = 1) internal.php:%d
  < {closure} = 2
< array_map = [2] [internal]
> DateTime::__construct($datetime = "no date") internal.php:%d [internal]
< DateTime::__construct = Exception: %s [internal] [thrown]
