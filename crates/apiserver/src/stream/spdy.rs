//! SPDY/3.1, as far as Kubernetes' clients use it: a server's side, streams that the client opens, no flow control.
//!
//! <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Mutex;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// Clients send what they read at once; more than this is none of theirs.
const LARGEST_FRAME: usize = 1024 * 1024;
/// Headers of a stream, unpacked.
const LARGEST_HEADERS: usize = 64 * 1024;
/// Streams that a client may open on one connection at once is up to the caller; what one frame carries is not.
const LARGEST_DATA: usize = 32 * 1024;

/// What both sides know beforehand of headers (section 2.6.10.1): words with their lengths, then a text.
fn dictionary() -> &'static [u8] {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
        accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
        content-length content-location content-md5 content-range content-type date etag expect expires from host \
        if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards \
        pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding \
        upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public \
        set-cookie keep-alive origin";
    const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
        203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
        404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
        Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
        application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
        charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    static DICTIONARY: OnceLock<Vec<u8>> = OnceLock::new();
    DICTIONARY.get_or_init(|| {
        let mut bytes = Vec::new();
        for word in WORDS.split_whitespace() {
            let word = word.replace('_', " ");
            bytes.put_u32(word.len() as u32);
            bytes.extend_from_slice(word.as_bytes());
        }
        bytes.extend_from_slice(TEXT.as_bytes());
        bytes
    })
}

/// What a client does.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// Opens a stream; it has been answered.
    Open { stream: u32, headers: HashMap<String, String> },
    /// Sends on a stream; with `last`, for the last time.
    Data { stream: u32, bytes: Bytes, last: bool },
    /// Wants to hear nothing more of a stream.
    Reset { stream: u32 },
}

/// The receiving side.
pub(super) struct Reader<S> {
    io: ReadHalf<S>,
    writer: Writer<S>,
    unpack: Decompress,
    /// A stream that was opened and ended by one frame.
    ended: Option<u32>,
}

/// The sending side; clones share it.
pub(super) struct Writer<S> {
    io: Arc<Mutex<(WriteHalf<S>, Compress)>>,
}

impl<S> Clone for Writer<S> {
    fn clone(&self) -> Writer<S> {
        Writer { io: self.io.clone() }
    }
}

/// Takes a connection over.
pub(super) fn start<S: AsyncRead + AsyncWrite>(io: S) -> io::Result<(Reader<S>, Writer<S>)> {
    let (read, write) = tokio::io::split(io);
    let mut pack = Compress::new(Compression::fast(), true);
    pack.set_dictionary(dictionary()).map_err(io::Error::other)?;
    let writer = Writer { io: Arc::new(Mutex::new((write, pack))) };
    let reader = Reader { io: read, writer: writer.clone(), unpack: Decompress::new(true), ended: None };
    Ok((reader, writer))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY: {what}"))
}

impl<S: AsyncRead + AsyncWrite> Reader<S> {
    /// What comes next; none when the client is gone. Must not be dropped half done: a frame would be lost.
    pub(super) async fn next(&mut self) -> io::Result<Option<Event>> {
        if let Some(stream) = self.ended.take() {
            return Ok(Some(Event::Data { stream, bytes: Bytes::new(), last: true }));
        }
        loop {
            let mut head = [0; 8];
            match self.io.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            }
            let mut head = &head[..];
            let (first, word) = (head.get_u32(), head.get_u32());
            let (flags, length) = ((word >> 24) as u8, (word & 0x00ff_ffff) as usize);
            if length > LARGEST_FRAME {
                return Err(wrong("a frame is too large"));
            }
            let mut payload = vec![0; length];
            self.io.read_exact(&mut payload).await?;
            let payload = Bytes::from(payload);
            if first & 0x8000_0000 == 0 {
                return Ok(Some(Event::Data { stream: first, bytes: payload, last: flags & FIN != 0 }));
            }
            if (first >> 16) as u16 & 0x7fff != VERSION {
                return Err(wrong("not version 3"));
            }
            if let Some(event) = self.control(first as u16, flags, payload).await? {
                return Ok(Some(event));
            }
        }
    }

    async fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> io::Result<Option<Event>> {
        let least = match kind {
            SYN_STREAM => 10,
            RST_STREAM => 8,
            PING => 4,
            GOAWAY => return Ok(None),
            // Settings and windows, which neither side keeps to.
            _ => return Ok(None),
        };
        if payload.len() < least {
            return Err(wrong("a frame is too short"));
        }
        let number = payload.get_u32();
        let stream = number & 0x7fff_ffff;
        match kind {
            SYN_STREAM => {
                payload.advance(6);
                let headers = parse(&self.unpack(&payload)?)?;
                self.writer.reply(stream).await?;
                if flags & FIN != 0 {
                    self.ended = Some(stream);
                }
                Ok(Some(Event::Open { stream, headers }))
            }
            RST_STREAM => Ok(Some(Event::Reset { stream })),
            _ => {
                self.writer.control(PING, 0, &number.to_be_bytes()).await?;
                Ok(None)
            }
        }
    }

    fn unpack(&mut self, packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(1024);
        let mut rest = packed;
        loop {
            if plain.len() >= LARGEST_HEADERS {
                return Err(wrong("headers are too large"));
            }
            plain.reserve(1024);
            let (taken_before, had) = (self.unpack.total_in(), plain.len());
            let mut given = false;
            match self.unpack.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(wrong("headers end")),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.unpack.set_dictionary(dictionary()).map_err(|_| wrong("another dictionary"))?;
                    given = true;
                }
                Err(_) => return Err(wrong("headers cannot be unpacked")),
            }
            let taken = usize::try_from(self.unpack.total_in() - taken_before).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            if given {
                continue;
            }
            // Nothing left to take, and room was left over: that is all.
            if rest.is_empty() && plain.len() < plain.capacity() {
                return Ok(plain);
            }
            if taken == 0 && plain.len() == had {
                return Err(wrong("headers cannot be unpacked"));
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> io::Result<HashMap<String, String>> {
    let text = |plain: &mut &[u8]| -> io::Result<String> {
        let length = number(plain)? as usize;
        let Some((word, rest)) = plain.split_at_checked(length) else { return Err(wrong("headers are cut")) };
        let word = String::from_utf8_lossy(word).into_owned();
        *plain = rest;
        Ok(word)
    };
    let count = number(&mut plain)?;
    let mut headers = HashMap::new();
    for _ in 0..count {
        let name = text(&mut plain)?;
        headers.insert(name, text(&mut plain)?);
    }
    Ok(headers)
}

fn number(plain: &mut &[u8]) -> io::Result<u32> {
    if plain.len() < 4 {
        return Err(wrong("headers are cut"));
    }
    Ok(plain.get_u32())
}

impl<S: AsyncRead + AsyncWrite> Writer<S> {
    /// Sends on a stream.
    pub(super) async fn data(&self, stream: u32, bytes: &[u8], last: bool) -> io::Result<()> {
        let mut chunks = bytes.chunks(LARGEST_DATA).peekable();
        if chunks.peek().is_none() && last {
            return self.frame(stream, FIN, &[]).await;
        }
        while let Some(chunk) = chunks.next() {
            let flags = if last && chunks.peek().is_none() { FIN } else { 0 };
            self.frame(stream, flags, chunk).await?;
        }
        Ok(())
    }

    /// Says that no more sessions are taken.
    pub(super) async fn go_away(&self) -> io::Result<()> {
        self.control(GOAWAY, 0, &[0; 8]).await
    }

    async fn reply(&self, stream: u32) -> io::Result<()> {
        let mut io = self.io.lock().await;
        let (write, pack) = &mut *io;
        let mut packed = Vec::with_capacity(256);
        // No headers. One stream of packed octets for the whole connection, cut after each frame.
        pack.compress_vec(&[0; 4], &mut packed, FlushCompress::Sync).map_err(io::Error::other)?;
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&packed);
        write_frame(write, u32::from(0x8000 | VERSION) << 16 | u32::from(SYN_REPLY), 0, &payload).await
    }

    async fn control(&self, kind: u16, flags: u8, payload: &[u8]) -> io::Result<()> {
        self.frame(u32::from(0x8000 | VERSION) << 16 | u32::from(kind), flags, payload).await
    }

    async fn frame(&self, first: u32, flags: u8, payload: &[u8]) -> io::Result<()> {
        write_frame(&mut self.io.lock().await.0, first, flags, payload).await
    }
}

async fn write_frame<S: AsyncWrite>(
    io: &mut WriteHalf<S>,
    first: u32,
    flags: u8,
    payload: &[u8],
) -> io::Result<()> {
    let mut frame = BytesMut::with_capacity(8 + payload.len());
    frame.put_u32(first);
    frame.put_u32(u32::from(flags) << 24 | payload.len() as u32);
    frame.extend_from_slice(payload);
    io.write_all(&frame).await?;
    io.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dictionary's check sum, which every packed stream begins with.
    #[test]
    fn the_dictionary_is_the_protocols() {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary() {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!((dictionary().len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    fn packed(pack: &mut Compress, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for word in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(word.len() as u32);
            plain.extend_from_slice(word.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 256);
        pack.compress_vec(&plain, &mut packed, FlushCompress::Sync).unwrap();
        packed
    }

    /// D9: streams are opened, answered, written to and ended; a ping comes back.
    #[tokio::test]
    async fn a_client_opens_streams() {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (mut reader, writer) = start(server).unwrap();
        let mut pack = Compress::new(Compression::best(), true);
        pack.set_dictionary(dictionary()).unwrap();
        for (stream, port) in [(1_u32, "80"), (3, "8080")] {
            let mut payload = stream.to_be_bytes().to_vec();
            payload.extend_from_slice(&[0; 6]);
            payload.extend(packed(&mut pack, &[("streamtype", "data"), ("port", port), ("requestid", "0")]));
            client.write_u32(0x8003_0001).await.unwrap();
            client.write_u32(payload.len() as u32).await.unwrap();
            client.write_all(&payload).await.unwrap();
            let Some(Event::Open { stream: opened, headers }) = reader.next().await.unwrap() else {
                panic!("no stream")
            };
            assert_eq!(
                (opened, headers["port"].as_str(), headers["streamtype"].as_str()),
                (stream, port, "data")
            );
            assert_eq!(client.read_u32().await.unwrap(), 0x8003_0002);
            let length = client.read_u32().await.unwrap();
            client.read_exact(&mut vec![0; length as usize]).await.unwrap();
        }
        client.write_all(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]).await.unwrap();
        client.write_all(&[0, 0, 0, 3, 1, 0, 0, 2, b'h', b'i']).await.unwrap();
        let data = reader.next().await.unwrap();
        assert_eq!(data, Some(Event::Data { stream: 3, bytes: Bytes::from_static(b"hi"), last: true }));
        let mut pong = [0; 12];
        client.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]);
        writer.data(1, b"hello", true).await.unwrap();
        let mut answer = [0; 13];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"\0\0\0\x01\x01\0\0\x05hello");
        drop(client);
        assert_eq!(reader.next().await.unwrap(), None);
    }

    proptest::proptest! {
        /// Whatever a client sends ends in events or an error.
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, kind in 0_u8..10) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut client, server) = tokio::io::duplex(64 * 1024);
                let (mut reader, _writer) = start(server).unwrap();
                let length = u8::try_from(bytes.len().min(255)).unwrap();
                client.write_all(&[0x80, 3, 0, kind, 0, 0, 0, length]).await.unwrap();
                client.write_all(&bytes).await.unwrap();
                client.shutdown().await.unwrap();
                while let Ok(Some(_)) = reader.next().await {}
            });
        }
    }

    #[tokio::test]
    async fn garbage_is_an_error() {
        for frame in [
            &[0x80, 2, 0, 1, 0, 0, 0, 0][..],
            &[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0],
            &[0x80, 3, 0, 1, 0, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
            &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
        ] {
            let (mut client, server) = tokio::io::duplex(1024);
            let (mut reader, _writer) = start(server).unwrap();
            client.write_all(frame).await.unwrap();
            drop(client);
            assert!(reader.next().await.is_err(), "{frame:?}");
        }
    }
}
