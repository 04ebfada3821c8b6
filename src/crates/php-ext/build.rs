//! Compiles `shim.c` against the headers of the PHP that `php-config` (or `PHP_CONFIG`) names, and
//! tells the crate what this PHP can do.

use std::process::Command;
use std::{env, fs};

fn php_config(argument: &str) -> String {
    let program = env::var("PHP_CONFIG").unwrap_or_else(|_| "php-config".into());
    let output = Command::new(&program).arg(argument).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => panic!("{program} {argument} failed: are PHP's headers installed (php-dev)?"),
    }
}

fn main() {
    println!("cargo:rerun-if-changed=src/shim.c");
    println!("cargo:rerun-if-env-changed=PHP_CONFIG");
    let version: u32 = php_config("--vernum").parse().unwrap_or(0);
    let include = php_config("--include-dir");
    println!("cargo:rerun-if-changed={include}/main/php_config.h");
    let config = fs::read_to_string(format!("{include}/main/php_config.h")).unwrap_or_default();
    let thread_safe = config.lines().any(|line| line.trim() == "#define ZTS 1");
    if thread_safe {
        println!("cargo:rustc-cfg=php_zts");
    }
    // The observer sees internal functions from 8.2 on.
    if version >= 80200 {
        println!("cargo:rustc-cfg=internals_observed");
    }
    // src/quiet.rs rests on how exactly these versions specialise opcodes; tried on 8.2.
    if (80200..80300).contains(&version) && !thread_safe {
        println!("cargo:rustc-cfg=quiet");
    }
    let mut build = cc::Build::new();
    build.file("src/shim.c").define("COMPILE_DL_NBGUARD", None).warnings(false);
    for include in php_config("--includes").split_whitespace() {
        build.flag(include);
    }
    build.compile("nbguard_shim");
}
