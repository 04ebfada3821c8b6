--TEST--
50,000 calls deep, and all of them end
--INI--
memory_limit=512M
nbguard.ring=65536
--FILE--
<?php
require __DIR__ . '/trace.inc';
function down($n) { return $n ? down($n - 1) + 1 : 0; }
t_on(ON);
$begun = t_header()['head'];
var_dump(down(50000));
$ended = t_header()['head'];
var_dump($ended - $begun >= 2 * 50001);
$last = array_slice(t_records(), -3);
foreach ($last as $r) if ($r['kind'] === 2 && $r['wall'] > 0) { echo "ended\n"; break; }
echo max(array_column(t_records(), 'depth')), "\n";
?>
--EXPECTF--
int(50000)
bool(true)
ended
5000%d
