--TEST--
On and off many times in one request: nothing is lost while on, nothing written while off
--FILE--
<?php
require __DIR__ . '/trace.inc';
function f() { return g(); }
function g() { return 1; }
for ($session = 1; $session <= 3; $session++) {
    t_on(ON, $session);
    $head = t_header()['head'];
    f();
    $on = t_header()['head'] - $head;
    t_off();
    $head = t_header()['head'];
    f();
    $x = function () { return f(); };
    $x();
    echo $on >= 4 ? 'recorded' : "only $on", ' ', t_header()['head'] - $head, "\n";
}
?>
--EXPECT--
recorded 0
recorded 0
recorded 0
