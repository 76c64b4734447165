//! Savepoints: what was written is read, and every byte that is another is told.

use super::*;
use crate::error::Kind;

fn header() -> Header {
    let meta = Meta {
        format: 1,
        epoch: 7,
        positions: [("t/0".to_owned(), 5)].into(),
        watermarks: [("t/0".to_owned(), 1_000)].into(),
        closed: 900,
        operators: [("counts".to_owned(), "keys: a Utf8".to_owned())].into(),
        ..Meta::default()
    };
    Header::new("team", "job", 1_700_000_000_000, meta)
}

fn entries() -> Vec<Change> {
    let change = |n: u8| Change { shard: u16::from(n % 4), key: vec![n; 3], value: Some(vec![n; usize::from(n)]) };
    (0..20).map(change).collect()
}

fn write(path: &Path) -> (u64, u64) {
    let mut writer = Writer::create(path, &header()).unwrap();
    entries().iter().for_each(|e| writer.entry(e).unwrap());
    writer.entry(&Change { shard: 0, key: b"removed".to_vec(), value: None }).unwrap();
    writer.finish().unwrap()
}

fn read(path: &Path) -> Result<(Header, Vec<Change>), SavepointError> {
    let mut savepoint = Savepoint::open(path)?;
    let mut all = Vec::new();
    savepoint.entries(&mut |e| all.push(e))?;
    Ok((savepoint.header().clone(), all))
}

#[test]
fn what_was_written_is_read_and_the_same_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.savepoint");
    let (count, bytes) = write(&path);
    assert_eq!((count, bytes), (20, std::fs::metadata(&path).unwrap().len()));
    assert_eq!(read(&path).unwrap(), (header(), entries()));
    let mut built = Vec::new();
    begin(&header(), &mut built);
    entries().iter().for_each(|e| entry(e.shard, &[&e.key[..1], &e.key[1..]], e.value.as_deref().unwrap(), &mut built));
    finish(20, &mut built);
    assert_eq!(built, std::fs::read(&path).unwrap());
    let of_bytes = Savepoint::of_bytes("memory", built).unwrap();
    assert_eq!(of_bytes.id(), Savepoint::open(&path).unwrap().id());
    // Nothing is left beside it, and nothing at all of one that was given up.
    drop(Writer::create(&dir.path().join("b"), &header()).unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn each_byte_that_is_another_is_told_and_nothing_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.savepoint");
    write(&path);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xFF] {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            let error = Savepoint::of_bytes("s", changed).err();
            let error = error.unwrap_or_else(|| panic!("byte {at} flipped by {flip} is not seen"));
            let text = error.to_string();
            assert!(text.contains("damaged") || text.contains("not a savepoint"), "byte {at}: {text}");
            assert!(at < 8 || error.kind() == Kind::Data, "byte {at}: {text}");
        }
    }
}

#[test]
fn a_file_that_is_cut_or_longer_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.savepoint");
    write(&path);
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        let error = Savepoint::of_bytes("s", whole[..length].to_vec()).err().unwrap().to_string();
        assert!(error.contains("cut off") || length < 8 && error.contains("not a savepoint"), "{length}: {error}");
    }
    let longer = [whole.as_slice(), b"x"].concat();
    assert!(Savepoint::of_bytes("s", longer).is_err());
    assert!(Savepoint::open(dir.path()).err().unwrap().to_string().contains("folder"));
    assert!(Savepoint::open(&dir.path().join("none")).err().unwrap().to_string().contains("none"));
}

#[test]
fn a_later_format_is_told_by_its_number() {
    let mut bytes = Vec::new();
    begin(&header(), &mut bytes);
    bytes[8] = 9;
    finish(0, &mut bytes);
    let error = Savepoint::of_bytes("s", bytes).err().unwrap();
    assert!(error.to_string().contains("has format 9"), "{error}");
}

#[test]
fn a_file_that_changes_between_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.savepoint");
    write(&path);
    let mut savepoint = Savepoint::open(&path).unwrap();
    let mut changed = std::fs::read(&path).unwrap();
    let at = changed.len() - TRAILER as usize - 20;
    changed[at] ^= 1;
    std::fs::write(&path, changed).unwrap();
    assert!(savepoint.entries(&mut |_| {}).is_err());
}

/// The format as of version 1: a file that was written then stays readable.
#[test]
fn the_stored_format_does_not_change() {
    let header = r#"{"program":"kindling 0.1.0","team":"t","name":"n","taken_ms":1,"meta":{"format":1,"epoch":2,"positions":{"a/0":3},"watermarks":{},"closed":-9223372036854775808,"layout":"l","operators":{"window_aggregate":"l"},"files":{}}}"#;
    let mut bytes = b"KNDLSAVE\x01\0\0\0".to_vec();
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(b"\x02\0\x03\0\0\0key\x01\0\0\0v\xff\xff\x01\0\0\0\0\0\0\0");
    let digest = Sha256::digest(&bytes);
    bytes.extend(digest);
    bytes.extend(b"KNDLEND\n");
    let mut savepoint = Savepoint::of_bytes("v1", bytes).unwrap();
    let mut all = Vec::new();
    assert_eq!(savepoint.entries(&mut |e| all.push(e)).unwrap(), 1);
    assert_eq!(all, [Change { shard: 2, key: b"key".to_vec(), value: Some(b"v".to_vec()) }]);
    assert_eq!((savepoint.header().meta.epoch, savepoint.header().meta.positions["a/0"]), (2, 3));
}
