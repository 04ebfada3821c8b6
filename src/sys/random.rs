//! Random bytes for the names of episodes (getrandom(2)).

/// Sixteen random bytes. Before the kernel's pool is ready (early boot) the rest stays as it is:
/// the bytes name an episode, they guard no secret.
pub fn sixteen_bytes() -> [u8; 16] {
    let mut bytes = [0u8; 16];
    // SAFETY: the pointer and length are those of a live local array.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    bytes
}
