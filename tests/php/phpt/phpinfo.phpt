--TEST--
phpinfo() tells the state, and why
--INI--
nbguard.ring=1000
--FILE--
<?php
ob_start();
phpinfo(INFO_MODULES);
preg_match('/^nbguard$.*?(?=^$.^\w+$)/ms', ob_get_clean(), $match);
preg_match_all('/^(?:state|while|nbguard\.ring|nbguard\.enable).*$/m', $match[0], $lines);
echo implode("\n", $lines[0]), "\n";
?>
--EXPECTF--
state => ready, switched off
while switched off => the observer %s
nbguard.enable => 1
nbguard.ring => 1000
