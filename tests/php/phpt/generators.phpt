--TEST--
Generators: a yield is not the end, a resume is not a new call
--FILE--
<?php
require __DIR__ . '/trace.inc';
function inner() { yield 'in'; return 7; }
function gen($n) { yield $n; $x = yield from inner(); return $x; }
function failing() { yield 1; throw new LogicException('late'); }
function left() { try { yield 1; yield 2; } finally { inner(); } }
t_on();
mark();
foreach (gen(5) as $value) {}
try { foreach (failing() as $value) {} } catch (LogicException $e) {}
foreach (left() as $value) { break; }
unset($value);
mark();
t_dump();
?>
--EXPECTF--
> gen($n = 5) generators.php:%d
< gen = 5 [resumed]
%A
> inner() generators.php:%d
< inner = "in" [resumed]
%A
> failing() generators.php:%d
< failing = 1 [resumed]
> failing() generators.php:%d [resumed]
< failing = LogicException: "late" [thrown]
> left() generators.php:%d
< left = 1 [resumed]
%A
