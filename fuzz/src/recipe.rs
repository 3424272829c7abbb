//! Inputs that say how to make what is parsed, where random bytes would never
//! get past a checksum or hit a place that matters.

/// Takes an input apart from its beginning; what is missing is zero.
pub struct Recipe<'a>(pub &'a [u8]);

impl Recipe<'_> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub fn number(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }
}
