<?php
require __DIR__ . '/trace.inc';
function down($n) { return $n ? down($n - 1) + 1 : 0; }
t_on(ON);
$begun = t_header()['head'];
var_dump(down(50000));
$ended = t_header()['head'];
var_dump($ended - $begun >= 2 * 50001);
t_off();
$records = t_records();
$ends = array_filter($records, fn($r) => $r['kind'] === 2 && $r['wall'] > 0 && $r['function'] !== '?');
echo count($ends) > 10000 ? "ended\n" : count($ends);
echo max(array_column($records, 'depth')), "\n";
?>
