--TEST--
A snapshot is the whole stack, once for each session
--FILE--
<?php
require __DIR__ . '/trace.inc';
class Job { function run() { return array_map($this->work(...), [1]); } function work($n) { t_on(SNAPSHOT); usleep(1); return $n; } }
(new Job)->run();
foreach (t_records() as $r) {
    if ($r['kind'] === 5) echo "#{$r['depth']} ", $r['class'] ? "$r[class]::" : '', $r['function'], ' ', basename($r['file']), ":$r[line]\n";
}
echo implode(' ', array_unique(array_column(t_records(), 'kind'))), "\n";
?>
--EXPECTF--
#0 t_%s trace.inc:%d
%A
#%d Job::work snapshot.php:3
#%d array_map :0
#%d Job::run snapshot.php:3
#%d  snapshot.php:4
%A
