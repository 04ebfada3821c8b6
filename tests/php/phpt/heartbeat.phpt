--TEST--
When the tool's beat is older than its period, tracing turns itself off and says so
--FILE--
<?php
require __DIR__ . '/trace.inc';
function call() {}
t_on();
t_switch(ON, 1, period_ms: 300);
call();
$begun = hrtime(true);
while (t_header()['tracing'] === 1 && hrtime(true) - $begun < 5e9) { usleep(2000); call(); }
$took = (hrtime(true) - $begun) / 1e9;
echo 'tracing: ', t_header()['tracing'], $took < 1.5 ? ', in time' : ", after $took s", "\n";
$records = t_records();
echo end($records)['values'], "\n";
$head = t_header()['head'];
for ($n = 0; $n < 1000; $n++) call();
var_dump(t_header()['head'] === $head);
t_switch(ON, 2);
t_until(1, 2);
call();
var_dump(t_header()['head'] > $head);
t_off();
$records = t_records();
echo end($records)['values'], "\n";
?>
--EXPECT--
tracing: 2, in time
tracing is off: the tool has not beaten for longer than its period
bool(true)
bool(true)
tracing is off: it was switched off
