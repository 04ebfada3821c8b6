--TEST--
Calls with parameters, returns and what was thrown, as a tree
--INI--
precision=14
--FILE--
<?php
require __DIR__ . '/trace.inc';
class A {
    public int $x = 1;
    protected $password = 'known to nobody';
    private ?A $a = null;
    public $never;
    function m($a, #[SensitiveParameter] $pin = null) { return [$a, $this]; }
    static function s() { return false; }
    function __toString(): string { throw new Exception('rendering called user code'); }
    function __debugInfo() { throw new Exception('rendering called user code'); }
    function __get($name) { throw new Exception('rendering called user code'); }
}
enum E: string { case One = 'o'; }
function deep($n) { return $n ? deep($n - 1) : 0; }
function thrower() { throw new RuntimeException("bad\nthing"); }
function all(...$rest) { return $rest[0]; }
$cycle = ['in' => 1];
$cycle['self'] = &$cycle;
t_on();
mark();
(new A)->m(1.5, 'secret');
all(new A);
A::s();
$f = fn($x) => $x * 2;
$f(21);
deep(2);
try { thrower(); } catch (Exception $e) {}
all(E::One, ['k' => 'v', 'api_key' => 'x'], null, true, NAN, -INF, 1e300, 0.1, PHP_INT_MIN);
all("quotes \" and \\ and\0\x1b[31m control");
all(str_repeat('ä', 40));
all($cycle);
all(range(1, 20));
all([[[[[]]]]], new stdClass, (object) ['a' => 1, 'secret' => 2], STDIN);
function hidden($password, $secretCode, $my_key) { return getmypid(); }
hidden(1, 2, 3);
(new class { function anonymous() {} })->anonymous();
mark();
t_dump();
?>
--EXPECTF--
> A::m($a = 1.5, $pin = (redacted)) values.php:%d
< A::m = [1.5, A#%d]
> all($rest = A#%d {x: 1, password: (redacted), a: null, never: null}) values.php:%d
< all = A#%d {x: 1, password: (redacted), a: null, never: null}
> A::s() values.php:%d
< A::s = false [failed]
> {closure}($x = 21) values.php:%d
< {closure} = 42
> deep($n = 2) values.php:%d
  > deep($n = 1) values.php:%d
    > deep($n = 0) values.php:%d
    < deep = 0
  < deep = 0
< deep = 0
> thrower() values.php:%d
< thrower = RuntimeException: "bad\nthing" [thrown]
> all($rest = E::One, $rest = ["k" => "v", "api_key" => (redacted)], $rest = null, $rest = true, $rest = NAN, $rest = -INF, $rest = 1e300, $rest = 0.1, $rest = -9223372036854775808) values.php:%d
< all = E::One
> all($rest = "quotes \" and \\ and\x00\x1b[31m control") values.php:%d
< all = "quotes \" and \\ and\x00\x1b[31m control"
> all($rest = "ääääääääääääääääääääääääääääääää"...(80 bytes)) values.php:%d
< all = "ääääääääääääääääääääääääääääääää"...(80 bytes)
> all($rest = ["in" => 1, "self" => ["in" => 1, "self" => ["in" => 1, "self" => [...2]]]]) values.php:%d
< all = ["in" => 1, "self" => ["in" => 1, "self" => ["in" => 1, "self" => [...2]]]]
> all($rest = [1, 2, 3, 4, 5, 6, 7, 8, ...12 more]) values.php:%d
< all = [1, 2, 3, 4, 5, 6, 7, 8, ...12 more]
> all($rest = [[[[...1]]]], $rest = stdClass#%d, $rest = stdClass#%d {"a" => 1, "secret" => (redacted)}, $rest = resource(%d)) values.php:%d
< all = [[[[...1]]]]
> hidden($password = (redacted), $secretCode = (redacted), $my_key = (redacted)) values.php:%d
< hidden = %d
> class@anonymous::anonymous() values.php:%d
< class@anonymous::anonymous = null
