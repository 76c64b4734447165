//! A savepoint: one file with all that a job must know to go on, so that it can go on elsewhere, later, or as a changed pipeline.
//!
//! ```text
//! magic "KNDLSAVE" · version u32 · header length u32 · header, JSON
//! entries:  shard u16 · key length u32 · key · value length u32 · value
//! end:      0xFFFF u16 · entries u64 · SHA-256 of all before it, 32 bytes · "KNDLEND\n"
//! ```
//! Integers are little-endian. In: entries of keyed state, as the log has them. Out: the same entries.
//! **Invariant**: nothing of a file is believed before all of it was read and its checksum was right, and the checksum is worked out a
//! second time while the entries are given.

use crate::output::{Change, Meta};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"KNDLSAVE";
const END: &[u8; 8] = b"KNDLEND\n";
/// Version of the format that is written; all up to it are read.
const VERSION: u32 = 1;
/// Stands where a shard would: no entry follows.
const NO_SHARD: u16 = u16::MAX;
/// Bytes of checksum and closing magic.
const TRAILER: u64 = 32 + 8;
/// Bytes of magic, version and the header's length.
const HEAD: u64 = 16;
/// Bytes of a header; positions of some hundred thousand partitions.
const HEADER_BYTES_MAX: u32 = 64 << 20;
/// Bytes read or written at once.
const BUFFER: usize = 256 << 10;

/// Why a savepoint can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SavepointError {
    /// The file system refuses.
    #[error("savepoint {file}: {why}")]
    Io {
        /// File, or where it came from.
        file: String,
        /// What the system said.
        why: std::io::Error,
    },
    /// It is something else.
    #[error("{file} is not a savepoint of Kindling: {why}")]
    Other {
        /// File.
        file: String,
        /// How that was seen.
        why: String,
    },
    /// It was a savepoint.
    #[error(
        "savepoint {file} is damaged: {why}; nothing of it was used: take the copy that you have of it, or an earlier savepoint"
    )]
    Damaged {
        /// File.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// It was written by a later version.
    #[error(
        "savepoint {file} has format {found}, this program reads up to {VERSION}: use the version of kindling that wrote it, or a later one"
    )]
    Version {
        /// File.
        file: String,
        /// Format found.
        found: u32,
    },
}

impl SavepointError {
    /// Who must act.
    pub fn kind(&self) -> crate::error::Kind {
        match self {
            Self::Io { .. } | Self::Other { .. } | Self::Version { .. } => crate::error::Kind::Config,
            Self::Damaged { .. } => crate::error::Kind::Data,
        }
    }
}

/// What stands before the entries.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Header {
    /// `kindling` and its version.
    pub program: String,
    /// Team of the job.
    pub team: String,
    /// Name of the job.
    pub name: String,
    /// When it was taken: milliseconds since 1970 UTC.
    pub taken_ms: i64,
    /// Positions, watermarks, the last epoch, and the layout of each operator's state.
    pub meta: Meta,
}

impl Header {
    /// Of the job `team`/`name`, taken now.
    pub fn new(team: &str, name: &str, taken_ms: i64, meta: Meta) -> Self {
        let program = concat!("kindling ", env!("CARGO_PKG_VERSION")).to_owned();
        Self { program, team: team.to_owned(), name: name.to_owned(), taken_ms, meta }
    }

    /// `team/name`.
    pub fn job(&self) -> String {
        format!("{}/{}", self.team, self.name)
    }

    /// The operators that have state, and its layout.
    pub fn operators(&self) -> &BTreeMap<String, String> {
        &self.meta.operators
    }
}

/// Appends what stands before the entries.
pub fn begin(header: &Header, out: &mut Vec<u8>) {
    // A header is strings and integers: it always has a JSON text.
    let header = serde_json::to_vec(header).unwrap_or_default();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&u32::try_from(header.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&header);
}

/// Appends an entry; `key` in parts that follow each other.
pub fn entry(shard: u16, key: &[&[u8]], value: &[u8], out: &mut Vec<u8>) {
    // Keys and values are records of Kafka, far below 4 GiB.
    let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    out.extend_from_slice(&shard.to_le_bytes());
    out.extend_from_slice(&length(key.iter().map(|k| k.len()).sum()));
    key.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(&length(value.len()));
    out.extend_from_slice(value);
}

/// What stands behind the entries, but for the checksum and the closing magic.
fn end(entries: u64) -> [u8; 10] {
    let mut end = [0; 10];
    end[..2].copy_from_slice(&NO_SHARD.to_le_bytes());
    end[2..].copy_from_slice(&entries.to_le_bytes());
    end
}

/// Ends a savepoint that was built in memory by [`begin`] and [`entry`].
pub fn finish(entries: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&end(entries));
    let digest = Sha256::digest(&*out);
    out.extend_from_slice(&digest);
    out.extend_from_slice(END);
}

/// Writes a savepoint to a file: beside it first, synced, then renamed, so that a file of this name is whole.
pub struct Writer {
    file: String,
    to: std::path::PathBuf,
    beside: std::path::PathBuf,
    out: BufWriter<File>,
    digest: Sha256,
    entries: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Writer {
    /// Begins the file `to`.
    ///
    /// # Errors
    /// [`SavepointError::Io`].
    pub fn create(to: &Path, header: &Header) -> Result<Self, SavepointError> {
        let name = to.file_name().map_or_else(|| "savepoint".into(), |n| n.to_string_lossy().into_owned());
        let beside = to.with_file_name(format!(".{name}.part"));
        let file = to.display().to_string();
        let out = File::create(&beside).map_err(|why| SavepointError::Io { file: file.clone(), why })?;
        let out = BufWriter::with_capacity(BUFFER, out);
        let mut writer =
            Self { file, to: to.to_path_buf(), beside, out, digest: Sha256::new(), entries: 0, bytes: 0, buffer: Vec::new() };
        begin(header, &mut writer.buffer);
        writer.flush()?;
        Ok(writer)
    }

    fn flush(&mut self) -> Result<(), SavepointError> {
        self.digest.update(&self.buffer);
        self.bytes += self.buffer.len() as u64;
        let written = self.out.write_all(&self.buffer);
        self.buffer.clear();
        written.map_err(|why| SavepointError::Io { file: self.file.clone(), why })
    }

    /// Adds an entry; one without a value is left out.
    ///
    /// # Errors
    /// [`SavepointError::Io`].
    pub fn entry(&mut self, entry: &Change) -> Result<(), SavepointError> {
        let Some(value) = &entry.value else { return Ok(()) };
        self::entry(entry.shard, &[&entry.key], value, &mut self.buffer);
        self.entries += 1;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Ends the file and gives it its name: how many entries and bytes it has.
    ///
    /// # Errors
    /// [`SavepointError::Io`].
    pub fn finish(mut self) -> Result<(u64, u64), SavepointError> {
        self.buffer.extend_from_slice(&end(self.entries));
        self.flush()?;
        let digest = std::mem::take(&mut self.digest).finalize();
        let folder = self.to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let named = self
            .out
            .write_all(&digest)
            .and_then(|()| self.out.write_all(END))
            .and_then(|()| self.out.flush())
            .and_then(|()| self.out.get_ref().sync_all())
            .and_then(|()| std::fs::rename(&self.beside, &self.to))
            // The name is durable only with its folder.
            .and_then(|()| File::open(folder)?.sync_all());
        named.map_err(|why| SavepointError::Io { file: self.file.clone(), why })?;
        Ok((self.entries, self.bytes + TRAILER))
    }
}

impl Drop for Writer {
    /// What was not finished leaves no file.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.beside);
    }
}

/// Where the bytes of a savepoint are.
enum Bytes {
    File(BufReader<File>),
    Memory(Cursor<Vec<u8>>),
}

impl Bytes {
    fn reader(&mut self) -> &mut dyn ReadSeek {
        match self {
            Self::File(file) => file,
            Self::Memory(bytes) => bytes,
        }
    }
}

trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// A savepoint whose checksum was right.
pub struct Savepoint {
    file: String,
    bytes: Bytes,
    /// Bytes before the checksum.
    length: u64,
    digest: [u8; 32],
    header: Header,
    /// Where the entries start.
    start: u64,
}

impl Savepoint {
    /// Opens a file, reads all of it, and says what is wrong with it.
    ///
    /// # Errors
    /// [`SavepointError`].
    pub fn open(path: &Path) -> Result<Self, SavepointError> {
        let file = path.display().to_string();
        let opened = File::open(path).and_then(|f| Ok((f.metadata()?, f)));
        let (metadata, opened) = opened.map_err(|why| SavepointError::Io { file: file.clone(), why })?;
        if metadata.is_dir() {
            return Err(SavepointError::Other { file, why: "it is a folder".into() });
        }
        Self::verified(file, Bytes::File(BufReader::with_capacity(BUFFER, opened)), metadata.len())
    }

    /// A savepoint in memory; `from` names it in errors.
    ///
    /// # Errors
    /// [`SavepointError`].
    pub fn of_bytes(from: &str, bytes: Vec<u8>) -> Result<Self, SavepointError> {
        let length = bytes.len() as u64;
        Self::verified(from.to_owned(), Bytes::Memory(Cursor::new(bytes)), length)
    }

    fn verified(file: String, mut bytes: Bytes, length: u64) -> Result<Self, SavepointError> {
        let io = |why| SavepointError::Io { file: file.clone(), why };
        let damaged = |why: &str| SavepointError::Damaged { file: file.clone(), why: why.to_owned() };
        let reader = bytes.reader();
        let mut magic = Vec::new();
        reader.take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(io)?;
        if magic != MAGIC {
            let why = if length == 0 { "it is empty" } else { "it begins otherwise" };
            return Err(SavepointError::Other { file, why: why.into() });
        }
        if length < HEAD + TRAILER {
            return Err(damaged("it is cut off"));
        }
        let before = length - TRAILER;
        reader.seek(SeekFrom::Start(before)).map_err(io)?;
        let (mut digest, mut end) = ([0; 32], [0; 8]);
        reader.read_exact(&mut digest).and_then(|()| reader.read_exact(&mut end)).map_err(io)?;
        if end != *END {
            return Err(damaged("it is cut off, or something was added to it: its end is missing"));
        }
        reader.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut hashed = Hashed { inner: reader, digest: Sha256::new(), left: before };
        let mut head = [0; HEAD as usize];
        hashed.read_exact(&mut head).map_err(io)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (version, header_length) = (word(8), word(12));
        let mut header = Vec::new();
        (&mut hashed).take(u64::from(header_length.min(HEADER_BYTES_MAX))).read_to_end(&mut header).map_err(io)?;
        std::io::copy(&mut hashed, &mut std::io::sink()).map_err(io)?;
        if hashed.left > 0 || hashed.digest.finalize()[..] != digest {
            return Err(damaged("its checksum is another"));
        }
        if version > VERSION {
            return Err(SavepointError::Version { file, found: version });
        }
        let header = serde_json::from_slice(&header).map_err(|e| damaged(&format!("its header does not read back: {e}")))?;
        Ok(Self { bytes, length: before, digest, header, start: HEAD + u64::from(header_length), file })
    }

    /// What stands before the entries.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// A short name of exactly this savepoint: 16 hexadecimal digits of its checksum.
    pub fn id(&self) -> String {
        self.digest[..8].iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Gives all entries. What `each` was given counts only when this ends well: the file could have changed since it was opened.
    ///
    /// # Errors
    /// [`SavepointError`].
    pub fn entries(&mut self, each: &mut dyn FnMut(Change)) -> Result<u64, SavepointError> {
        let file = self.file.clone();
        let io = |why: std::io::Error| match why.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                SavepointError::Damaged { file: file.clone(), why: "it ends within an entry".into() }
            }
            _ => SavepointError::Io { file: file.clone(), why },
        };
        let damaged = |why: &str| SavepointError::Damaged { file: file.clone(), why: why.to_owned() };
        let reader = self.bytes.reader();
        reader.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut hashed = Hashed { inner: reader, digest: Sha256::new(), left: self.length };
        std::io::copy(&mut (&mut hashed).take(self.start), &mut std::io::sink()).map_err(io)?;
        let mut count = 0u64;
        loop {
            let shard = u16::from_le_bytes(hashed.array().map_err(io)?);
            if shard == NO_SHARD {
                break;
            }
            let key = hashed.block().map_err(io)?;
            let value = Some(hashed.block().map_err(io)?);
            count += 1;
            each(Change { shard, key, value });
        }
        let told = u64::from_le_bytes(hashed.array().map_err(io)?);
        if told != count || hashed.left > 0 {
            return Err(damaged(&format!("it tells of {told} entries and has {count}")));
        }
        if hashed.digest.finalize()[..] != self.digest {
            return Err(damaged("it changed while it was read"));
        }
        Ok(count)
    }
}

/// Reads up to the checksum, and works it out.
struct Hashed<'a> {
    inner: &'a mut dyn ReadSeek,
    digest: Sha256,
    left: u64,
}

impl Hashed<'_> {
    fn array<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut array = [0; N];
        self.read_exact(&mut array)?;
        Ok(array)
    }

    /// A length and so many bytes.
    fn block(&mut self) -> std::io::Result<Vec<u8>> {
        let length = u64::from(u32::from_le_bytes(self.array()?));
        if length > self.left {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let mut block = vec![0; length as usize];
        self.read_exact(&mut block)?;
        Ok(block)
    }
}

impl Read for Hashed<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut into[..most])?;
        self.digest.update(&into[..read]);
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
#[path = "savepoint_tests.rs"]
mod tests;
