//! The daemon: small, one loop, resident. What people type is `nbguard`.

fn main() -> std::process::ExitCode {
    nbguard::cli::daemon::main()
}
