//! The archive that an export is: ustar, with PAX records where a field has no room. Everything is
//! written in one way only, so that the same files give the same bytes.

use alloc::format;
use alloc::vec::Vec;

/// What every part of an archive is a multiple of.
pub const BLOCK_BYTES: usize = 512;
/// What closes an archive.
pub const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

const NAME_BYTES: usize = 100;
/// What eleven octal digits can hold, for sizes and times.
const NUMBER_MAX: u64 = (1 << 33) - 1;
/// What seven octal digits can hold, for owners.
const ID_MAX: u64 = (1 << 21) - 1;
const EXTENSION: u8 = b'x';

/// An extended attribute: its name and its value.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// What an archive says about one file, beside its content.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names are those of the ustar fields")]
pub struct Header<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size_bytes: u64,
    pub mtime_seconds: u64,
    pub link: &'a [u8],
    pub device: (u32, u32),
    pub attributes: &'a [Attribute],
}

impl Header<'_> {
    /// The blocks that stand before the content.
    pub fn to_blocks(&self) -> Vec<u8> {
        let mut blocks = Vec::with_capacity(BLOCK_BYTES);
        let records = self.records();
        if !records.is_empty() {
            let size_bytes = records.len() as u64;
            let extension = Header {
                name: b"pax",
                kind: EXTENSION,
                mode: 0o644,
                size_bytes,
                ..Header::default()
            };
            blocks.extend_from_slice(&extension.block());
            blocks.extend_from_slice(&records);
            blocks.resize(blocks.len() + padding(size_bytes), 0);
        }
        blocks.extend_from_slice(&self.block());
        blocks
    }

    /// The PAX records for what does not fit, in the order of their keys.
    fn records(&self) -> Vec<u8> {
        let mut records: Vec<Attribute> = Vec::new();
        let mut add = |key: &[u8], value: &[u8]| records.push((key.to_vec(), value.to_vec()));
        let numbers = [
            ("uid", u64::from(self.uid), ID_MAX),
            ("gid", u64::from(self.gid), ID_MAX),
            ("size", self.size_bytes, NUMBER_MAX),
            ("mtime", self.mtime_seconds, NUMBER_MAX),
        ];
        for (key, number, max) in numbers {
            if number > max {
                add(key.as_bytes(), format!("{number}").as_bytes());
            }
        }
        for (key, text) in [("path", self.name), ("linkpath", self.link)] {
            if text.len() > NAME_BYTES {
                add(key.as_bytes(), text);
            }
        }
        for (name, value) in self.attributes {
            add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        records.sort_unstable();
        let mut bytes = Vec::new();
        for (key, value) in &records {
            push_record(&mut bytes, key, value);
        }
        bytes
    }

    fn block(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        put(&mut block[0..100], self.name);
        octal(&mut block[100..108], u64::from(self.mode));
        octal(&mut block[108..116], fitting(u64::from(self.uid), ID_MAX));
        octal(&mut block[116..124], fitting(u64::from(self.gid), ID_MAX));
        octal(&mut block[124..136], fitting(self.size_bytes, NUMBER_MAX));
        octal(&mut block[136..148], fitting(self.mtime_seconds, NUMBER_MAX));
        block[156] = self.kind;
        put(&mut block[157..257], self.link);
        put(&mut block[257..265], b"ustar\x0000");
        octal(&mut block[329..337], u64::from(self.device.0));
        octal(&mut block[337..345], u64::from(self.device.1));
        block[148..156].fill(b' ');
        let sum = block.iter().map(|byte| u64::from(*byte)).sum();
        octal(&mut block[148..155], sum);
        block
    }
}

/// How many zeros follow a content.
pub fn padding(size_bytes: u64) -> usize {
    (size_bytes.wrapping_neg() % BLOCK_BYTES as u64) as usize
}

/// A number that fits, or zero: then it stands in a record.
fn fitting(number: u64, max: u64) -> u64 {
    if number > max { 0 } else { number }
}

fn put(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// All digits but the last byte, which is zero.
fn octal(field: &mut [u8], mut number: u64) {
    let digits = field.len() - 1;
    field[digits] = 0;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (number & 7) as u8;
        number >>= 3;
    }
}

/// A record's length counts its own digits.
fn push_record(bytes: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + decimal_digits(length) {
        length = rest + decimal_digits(length);
    }
    bytes.extend_from_slice(format!("{length} ").as_bytes());
    bytes.extend_from_slice(key);
    bytes.push(b'=');
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}

fn decimal_digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn text(blocks: &[u8]) -> String {
        String::from_utf8_lossy(blocks).into_owned()
    }

    #[test]
    fn a_plain_file_takes_one_block_with_a_right_checksum() {
        let header = Header {
            name: b"rootfs/a",
            kind: b'0',
            mode: 0o644,
            uid: 7,
            gid: 8,
            size_bytes: 5,
            ..Header::default()
        };
        let block = header.to_blocks();
        assert_eq!(block.len(), BLOCK_BYTES);
        assert_eq!(&block[..9], b"rootfs/a\0");
        assert_eq!(&block[100..136], b"0000644\x000000007\x000000010\x0000000000005\0");
        let stated = u32::from_str_radix(text(&block[148..154]).trim(), 8).unwrap();
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let field: u32 = block[148..156].iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(stated, sum - field + 8 * 32);
    }

    #[test]
    fn what_has_no_room_goes_into_records_in_order() {
        let name = [b'n'; 150];
        let attributes = [(b"user.b".to_vec(), b"1\n2".to_vec())];
        let header = Header {
            name: &name,
            kind: b'0',
            uid: 3_000_000,
            size_bytes: 9 << 30,
            attributes: &attributes,
            ..Header::default()
        };
        let blocks = header.to_blocks();
        let records = text(&blocks[BLOCK_BYTES..2 * BLOCK_BYTES]);
        let path = format!("160 path={}\n", text(&name));
        let expected =
            format!("27 SCHILY.xattr.user.b=1\n2\n{path}19 size=9663676416\n15 uid=3000000\n");
        assert!(records.starts_with(&expected), "{records}");
        assert_eq!(blocks.len(), 3 * BLOCK_BYTES);
        assert_eq!(blocks[156], b'x');
        let own = &blocks[2 * BLOCK_BYTES..];
        assert_eq!(&own[108..116], b"0000000\0");
        assert_eq!(&own[124..136], b"00000000000\0");
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for count in [1, 80, 92, 93, 94, 990, 9_990] {
            let mut bytes = Vec::new();
            push_record(&mut bytes, b"path", &alloc::vec![b'x'; count]);
            let stated = text(&bytes).split(' ').next().unwrap().parse::<usize>().unwrap();
            assert_eq!(stated, bytes.len());
        }
    }

    #[test]
    fn contents_are_filled_up_to_blocks() {
        assert_eq!([0, 1, 511, 512, 513].map(padding), [0, 511, 1, 0, 511]);
    }
}
