--TEST--
A switch of another process with the same pid, or of a tool long gone, switches nothing on
--FILE--
<?php
require __DIR__ . '/trace.inc';
function call() {}
$table = fopen(t_dir() . '/switch', 'r+');
fseek($table, 4096 + 64 * getmypid());
fwrite($table, pack('QLLQLLQL', t_start() - 1, ON, 1, t_boottime(), 60000, 0, 0, 0));
fclose($table);
for ($n = 0; $n < 1300; $n++) { call(); usleep(1000); }
echo t_header()['tracing'], "\n";
t_switch(ON, 1, period_ms: 1000, beat: t_boottime() - 2_000_000_000);
for ($n = 0; $n < 1300; $n++) { call(); usleep(1000); }
echo t_header()['tracing'], ' ', t_header()['head'], "\n";
t_switch(0, 0);
?>
--EXPECT--
0
0 0
