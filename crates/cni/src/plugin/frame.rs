//! Frames on the agent's socket: four bytes of length, most significant first, then as many bytes of JSON. A length of
//! zero is an answer with nothing to say.

use std::io::{self, Read, Write};

/// The longest frame that is read or written, in bytes: a configuration with every byte escaped, and room to spare.
pub const MAX: usize = 64 << 20;

/// # Errors
/// Those of the connection; [`io::ErrorKind::InvalidInput`] when `body` is too long.
pub fn write(stream: &mut dyn Write, body: &[u8]) -> io::Result<()> {
    let length = header(body.len())?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length);
    frame.extend_from_slice(body);
    stream.write_all(&frame)
}

/// # Errors
/// Those of the connection; [`io::ErrorKind::UnexpectedEof`] when it ends early, [`io::ErrorKind::InvalidData`] when
/// the frame is longer than [`MAX`].
pub fn read(stream: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let length = length(header)?;
    // Memory follows what arrives, not what the header promises.
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("connection closed after {} of {length} bytes", body.len()),
        ));
    }
    Ok(body)
}

/// The header of a frame of `length` bytes.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when that is too long.
pub fn header(length: usize) -> io::Result<[u8; 4]> {
    match u32::try_from(length) {
        Ok(bytes) if length <= MAX => Ok(bytes.to_be_bytes()),
        _ => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a frame of {length} bytes is too long")))
        }
    }
}

/// The length that a header tells.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when that is too long.
pub fn length(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes is longer than {MAX}"),
        ));
    }
    Ok(length)
}
