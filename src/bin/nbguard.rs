//! `nbguard`: what people type.

fn main() -> std::process::ExitCode {
    nbguard::cli::main()
}
