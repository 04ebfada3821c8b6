--TEST--
A watched variable is recorded when it changes between calls
--FILE--
<?php
require __DIR__ . '/trace.inc';
// Not empty: opcache leaves out calls of functions that do nothing.
function tick() { return getmypid(); }
$count = 0;
$token_of_mine = 'hidden';
file_put_contents(str_replace('.trace', '.watch', t_file()), "\$count\n# no name\ntoken_of_mine\nlater\n");
t_on(ON, 1, watch: 1);
mark();
tick();
tick();
$count = 5;
tick();
$later = ['a'];
tick();
mark();
foreach (t_records() as $r) {
    if ($r['kind'] === 6) echo "watch $r[function] = $r[values]\n";
    elseif ($r['function'] === 'tick' && $r['kind'] === 1) echo "tick\n";
}
?>
--EXPECT--
watch count = 0
watch token_of_mine = (redacted)
watch later = (unset)
tick
tick
watch count = 5
tick
watch later = ["a"]
tick
