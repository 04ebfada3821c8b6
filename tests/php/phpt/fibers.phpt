--TEST--
Each fiber has a depth of its own; one that is thrown away ends its calls
--FILE--
<?php
require __DIR__ . '/trace.inc';
function step($n) { Fiber::suspend($n); return $n; }
function run($n) { step($n); return step($n + 1); }
t_on();
mark();
$a = new Fiber(run(...));
$b = new Fiber(run(...));
$a->start(1);
$b->start(10);
$a->resume();
$b->resume();
$a->resume();
unset($b);
gc_collect_cycles();
mark();
$open = 0;
foreach (t_records() as $r) { if ($r['kind'] === 1) $open++; if ($r['kind'] === 2) $open--; }
t_dump();
echo 'balance of calls: ', $open, "\n";
?>
--EXPECTF--
> run($n = 1) %s
  > step($n = 1) fibers.php:%d
> run($n = 10) %s
  > step($n = 10) fibers.php:%d
  < step = 1
  > step($n = 2) fibers.php:%d
  < step = 10
  > step($n = 11) fibers.php:%d
  < step = 2
< run = 2
  < step = %s [thrown]
< run = %s [thrown]
balance of calls: %d
