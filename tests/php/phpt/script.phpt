--TEST--
Include, require and eval are records; on in a request that is under way, the stack above is counted
--FILE--
<?php
require __DIR__ . '/trace.inc';
$file = __DIR__ . '/included.tmp';
file_put_contents($file, '<?php function from_file() { return strlen(__FILE__ . getmypid()); } return from_file();');
function outer() {
    t_on();
    mark();
    global $file;
    include $file;
    eval('return from_file();');
    mark();
    return t_header();
}
$header = outer();
t_dump();
var_dump(basename($header['script']), $header['state'], $header['requests'], $header['runtime'], $header['php'] === PHP_VERSION_ID);
?>
--CLEAN--
<?php @unlink(__DIR__ . '/included.tmp'); ?>
--EXPECTF--
> include() included.tmp:%d [script]
  > from_file() included.tmp:1
  < from_file = %d
< include = %d [script]
> eval() script.php(10) : eval()'d code:%d [script]
  > from_file() script.php(10) : eval()'d code:1
  < from_file = %d
< eval = %d [script]
string(10) "script.php"
int(2)
int(1)
int(1)
bool(true)
