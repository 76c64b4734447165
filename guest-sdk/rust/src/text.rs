//! Short text without an allocation, for functions that give one a row.

use std::fmt;

/// Text of at most `N` bytes, held in place.
///
/// ```
/// use kindling_guest::InlineStr;
/// let mut text = InlineStr::<4>::default();
/// assert!(text.push('a') && text.push('é'));
/// assert_eq!(text.as_str(), "aé");
/// assert!(!text.push('é'), "one byte is left");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct InlineStr<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> InlineStr<N> {
    /// Appends a character if it fits; whether it did.
    #[inline]
    pub fn push(&mut self, c: char) -> bool {
        let mut utf8 = [0; 4];
        let utf8 = c.encode_utf8(&mut utf8).as_bytes();
        match self.bytes.get_mut(self.len..self.len + utf8.len()) {
            Some(place) => {
                place.copy_from_slice(utf8);
                self.len += utf8.len();
                true
            }
            None => false,
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Only whole characters are appended.
        self.bytes.get(..self.len).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl<const N: usize> Default for InlineStr<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> fmt::Debug for InlineStr<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}
