--TEST--
What calls cost rises while they are recorded, with nobody asking, and stands still while they are not
--FILE--
<?php
require __DIR__ . '/trace.inc';
function leaf($n) { for ($i = 0; $i < 1000; $i++) { $n += $i; } return $n; }
function burn($ms) { $end = hrtime(true) + $ms * 1e6; while (hrtime(true) < $end) { leaf(1); } }
function in_fiber() { burn(30); Fiber::suspend(); burn(30); }
function cpu() { $u = getrusage(); return ($u['ru_utime.tv_sec'] + $u['ru_stime.tv_sec']) * 1e9 + ($u['ru_utime.tv_usec'] + $u['ru_stime.tv_usec']) * 1e3; }
function costs() { return unpack('Qseq/Qsince/Qat/Qcpu/Qmemory', substr(file_get_contents(t_file(), length: 128), 88)); }
function say($what, $is) { echo $what, ': ', $is ? 'yes' : 'NO ' . json_encode(costs()), "\n"; }

burn(5);
say('nothing while off', costs() === ['seq' => 0, 'since' => 0, 'at' => 0, 'cpu' => 0, 'memory' => 0]);

$held = str_repeat('x', 3 << 20);
t_on(ON);
$first = costs();
$before = cpu();
burn(60);
$fiber = new Fiber(in_fiber(...));
$fiber->start();
$fiber->resume();
leaf(1);
$spent = cpu() - $before;
$second = costs();
say('since it went on', $second['since'] === $first['since'] && abs(t_boottime() - $second['since']) < 60e9);
say('counted a moment ago', $second['at'] <= t_boottime() + 1e7 && t_boottime() - $second['at'] < 50e6);
$counted = $second['cpu'] - $first['cpu'];
// Each stretch once, in a fiber as well; to what the clock of the kernel and a publication miss.
say('as much CPU time as was spent', abs($counted - $spent) < 0.15 * $spent + 4e6);
say('no more than there was time', $second['cpu'] <= $second['at'] - $second['since']);
say('what the interpreter holds', abs($second['memory'] - memory_get_usage()) < 1 << 20 && $second['memory'] > 3 << 20);
usleep(50000);
leaf(1);
say('a wait costs nothing', costs()['cpu'] - $second['cpu'] < 20e6);

t_off();
$off = costs();
burn(20);
say('off, it stands still', costs() === $off && $off['seq'] % 2 === 0);

// A stack that is asked for records no calls: nothing is known of what they cost.
t_switch(SNAPSHOT, 7);
t_until(1, 7);
burn(5);
say('a stack alone is no count', costs()['since'] === 0);
t_on(ON, 8);
burn(5);
$again = costs();
say('again from nothing', $again['since'] > $off['at'] && $again['cpu'] < $off['cpu']);
?>
--EXPECT--
nothing while off: yes
since it went on: yes
counted a moment ago: yes
as much CPU time as was spent: yes
no more than there was time: yes
what the interpreter holds: yes
a wait costs nothing: yes
off, it stands still: yes
a stack alone is no count: yes
again from nothing: yes
