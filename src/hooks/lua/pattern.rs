//! Lua's pattern matching, step by step.
//!
//! A matcher does what `match` of Lua 5.4 does, with the same limits and errors, on bytes alone.
//! The time of a match can be exponential in the length of the pattern. So steps are counted, and
//! the caller is asked from time to time whether to go on.

/// Most captures of a pattern.
pub(super) const MAX_CAPTURES: usize = 32;

/// Deepest recursion of a match.
const MAX_DEPTH: u32 = 200;

const ESCAPE: u8 = b'%';

/// Reason why a match came to no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Error {
    EndsWithEscape,
    MissingBracket,
    MissingBalanced,
    MissingFrontier,
    /// Back reference to a capture that does not exist, with its number.
    CaptureIndex(i32),
    PatternCapture,
    TooManyCaptures,
    TooComplex,
    /// End of the caller's patience: no further steps were given.
    Stopped,
}

/// Capture: what a pair of parentheses has matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capture {
    /// Position, from 0.
    Position(usize),
    /// Bytes from one position to another.
    Text(usize, usize),
    /// Start of a capture that is not closed yet.
    Open(usize),
}

/// Matcher of a pattern on a subject.
///
/// Plain data, because an error of the interpreter may unwind past the matcher without dropping it.
#[derive(Clone, Copy)]
pub(super) struct Matcher<'a> {
    subject: &'a [u8],
    /// Pattern without its anchor.
    pattern: &'a [u8],
    captures: [Capture; MAX_CAPTURES],
    level: usize,
    depth: u32,
    /// Steps left before the caller is asked whether to go on.
    pub(super) left: u32,
}

impl<'a> Matcher<'a> {
    /// Creates a matcher of a pattern whose anchor has been removed.
    pub(super) fn new(subject: &'a [u8], pattern: &'a [u8], left: u32) -> Self {
        Self {
            subject,
            pattern,
            captures: [Capture::Open(0); MAX_CAPTURES],
            level: 0,
            depth: MAX_DEPTH,
            left,
        }
    }

    /// Returns the end of a match that begins at `start`.
    ///
    /// `more` returns the number of further steps; 0 stops the match.
    pub(super) fn at(
        &mut self,
        start: usize,
        more: &mut dyn FnMut() -> u32,
    ) -> Result<Option<usize>, Error> {
        self.level = 0;
        self.depth = MAX_DEPTH;
        self.run(start, 0, more)
    }

    pub(super) fn subject(&self) -> &'a [u8] {
        self.subject
    }

    /// Returns the captures of the last match.
    pub(super) fn captures(&self) -> &[Capture] {
        // invariant: there are as many places as levels.
        &self.captures[..self.level]
    }

    #[inline]
    fn step(&mut self, cost: usize, more: &mut dyn FnMut() -> u32) -> Result<(), Error> {
        if (self.left as usize) > cost {
            self.left -= cost as u32;
            return Ok(());
        }
        self.left = more();
        match self.left {
            0 => Err(Error::Stopped),
            _ => Ok(()),
        }
    }

    /// Returns a byte of the pattern, or 0 behind its end.
    #[inline]
    fn p(&self, at: usize) -> u8 {
        self.pattern.get(at).copied().unwrap_or(0)
    }

    fn run(
        &mut self,
        mut s: usize,
        mut p: usize,
        more: &mut dyn FnMut() -> u32,
    ) -> Result<Option<usize>, Error> {
        if self.depth == 0 {
            return Err(Error::TooComplex);
        }
        self.depth -= 1;
        let end = loop {
            self.step(1, more)?;
            if p == self.pattern.len() {
                break Some(s);
            }
            // invariant: `p` is no end of the pattern, as was looked at above, nor beyond: it goes by what was there.
            match self.pattern[p] {
                b'(' if self.p(p + 1) == b')' => {
                    break self.open(s, p + 2, Capture::Position(s), more)?;
                }
                b'(' => break self.open(s, p + 1, Capture::Open(s), more)?,
                b')' => break self.close(s, p + 1, more)?,
                b'$' if p + 1 == self.pattern.len() => {
                    break (s == self.subject.len()).then_some(s);
                }
                ESCAPE => match self.p(p + 1) {
                    b'b' => match self.balanced(s, p + 2, more)? {
                        Some(end) => {
                            s = end;
                            p += 4;
                            continue;
                        }
                        None => break None,
                    },
                    b'f' => {
                        p += 2;
                        if self.p(p) != b'[' {
                            return Err(Error::MissingFrontier);
                        }
                        let end = self.class_end(p)?;
                        self.step(width(p, end), more)?;
                        // invariant: `s` is the subject's length at most.
                        let before = match s {
                            0 => 0,
                            s => self.subject[s - 1],
                        };
                        let here = self.subject.get(s).copied().unwrap_or(0);
                        if !self.in_set(before, p, end - 1) && self.in_set(here, p, end - 1) {
                            p = end;
                            continue;
                        }
                        break None;
                    }
                    digit @ b'0'..=b'9' => match self.repeated(s, digit, more)? {
                        Some(end) => {
                            s = end;
                            p += 2;
                            continue;
                        }
                        None => break None,
                    },
                    _ => {}
                },
                _ => {}
            }
            let end = self.class_end(p)?;
            if end - p > 2 {
                self.step(width(p, end), more)?;
            }
            let suffix = self.p(end);
            if !self.single(s, p, end) {
                if matches!(suffix, b'*' | b'?' | b'-') {
                    p = end + 1;
                    continue;
                }
                break None;
            }
            match suffix {
                b'?' => match self.run(s + 1, end + 1, more)? {
                    Some(end) => break Some(end),
                    None => p = end + 1,
                },
                b'+' => break self.most(s + 1, p, end, more)?,
                b'*' => break self.most(s, p, end, more)?,
                b'-' => break self.least(s, p, end, more)?,
                _ => {
                    s += 1;
                    p = end;
                }
            }
        };
        self.depth += 1;
        Ok(end)
    }

    fn open(
        &mut self,
        s: usize,
        p: usize,
        what: Capture,
        more: &mut dyn FnMut() -> u32,
    ) -> Result<Option<usize>, Error> {
        if self.level == MAX_CAPTURES {
            return Err(Error::TooManyCaptures);
        }
        // invariant: there are as many places as levels, of which this is none too many.
        self.captures[self.level] = what;
        self.level += 1;
        let end = self.run(s, p, more)?;
        if end.is_none() {
            self.level -= 1;
        }
        Ok(end)
    }

    fn close(
        &mut self,
        s: usize,
        p: usize,
        more: &mut dyn FnMut() -> u32,
    ) -> Result<Option<usize>, Error> {
        // invariant: there are as many places as levels, and the one found is one of them.
        let open = self.captures[..self.level].iter().rposition(is_open);
        let at = open.ok_or(Error::PatternCapture)?;
        let was = self.captures[at];
        if let Capture::Open(start) = was {
            self.captures[at] = Capture::Text(start, s);
        }
        let end = self.run(s, p, more)?;
        if end.is_none() {
            // invariant: as above.
            self.captures[at] = was;
        }
        Ok(end)
    }

    fn balanced(
        &mut self,
        s: usize,
        p: usize,
        more: &mut dyn FnMut() -> u32,
    ) -> Result<Option<usize>, Error> {
        let (Some(&begin), Some(&end)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return Err(Error::MissingBalanced);
        };
        if self.subject.get(s) != Some(&begin) {
            return Ok(None);
        }
        let mut depth = 1_usize;
        for at in s + 1..self.subject.len() {
            self.step(1, more)?;
            // invariant: `at` is counted below the length.
            let byte = self.subject[at];
            if byte == end {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(at + 1));
                }
            } else if byte == begin {
                depth += 1;
            }
        }
        Ok(None)
    }

    /// Returns the end of what a back reference matches.
    fn repeated(
        &mut self,
        s: usize,
        digit: u8,
        more: &mut dyn FnMut() -> u32,
    ) -> Result<Option<usize>, Error> {
        let number = i32::from(digit) - i32::from(b'0');
        // invariant: there are as many places as levels.
        let captures = &self.captures[..self.level];
        let capture = usize::try_from(number - 1)
            .ok()
            .and_then(|at| captures.get(at));
        let (start, end) = match capture {
            Some(&Capture::Text(start, end)) => (start, end),
            // As in the original, the length of a position capture exceeds any text.
            Some(Capture::Position(_)) => return Ok(None),
            Some(Capture::Open(_)) | None => return Err(Error::CaptureIndex(number)),
        };
        self.step((end - start) / 64, more)?;
        // invariant: captures lie within the subject, and so does `s`.
        let text = &self.subject[start..end];
        Ok(self.subject[s..]
            .starts_with(text)
            .then_some(s + text.len()))
    }

    /// Matches a repeated class as often as possible, then less and less often.
    fn most(
        &mut self,
        s: usize,
        p: usize,
        end: usize,
        more: &mut dyn FnMut() -> u32,
    ) -> Result<Option<usize>, Error> {
        let mut last = s;
        while self.single(last, p, end) {
            self.step(1 + width(p, end), more)?;
            last += 1;
        }
        loop {
            if let Some(found) = self.run(last, end + 1, more)? {
                return Ok(Some(found));
            }
            if last == s {
                return Ok(None);
            }
            last -= 1;
        }
    }

    /// Matches a repeated class as seldom as possible, then more and more often.
    fn least(
        &mut self,
        mut s: usize,
        p: usize,
        end: usize,
        more: &mut dyn FnMut() -> u32,
    ) -> Result<Option<usize>, Error> {
        loop {
            if let Some(found) = self.run(s, end + 1, more)? {
                return Ok(Some(found));
            }
            if !self.single(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    /// Returns the end of the class that begins at `p`.
    fn class_end(&self, mut p: usize) -> Result<usize, Error> {
        // invariant: whoever asks has seen that something is there.
        match self.pattern[p] {
            ESCAPE if p + 1 == self.pattern.len() => Err(Error::EndsWithEscape),
            ESCAPE => Ok(p + 2),
            b'[' => {
                p += 1;
                if self.p(p) == b'^' {
                    p += 1;
                }
                loop {
                    let Some(&byte) = self.pattern.get(p) else {
                        return Err(Error::MissingBracket);
                    };
                    p += 1;
                    if byte == ESCAPE && p < self.pattern.len() {
                        p += 1;
                    }
                    if self.p(p) == b']' {
                        return Ok(p + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    /// Returns whether the byte at `s` is of the class from `p` to `end`.
    #[inline]
    fn single(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&byte) = self.subject.get(s) else {
            return false;
        };
        // invariant: the end of the class was found, so that it is all there.
        match self.pattern[p] {
            b'.' => true,
            ESCAPE => is_of(byte, self.pattern[p + 1]),
            b'[' => self.in_set(byte, p, end - 1),
            literal => literal == byte,
        }
    }

    /// Returns whether a byte is of the set from its `[` to its `]`.
    fn in_set(&self, byte: u8, mut p: usize, end: usize) -> bool {
        let mut inside = true;
        p += 1;
        if self.p(p) == b'^' {
            inside = false;
            p += 1;
        }
        while p < end {
            if self.p(p) == ESCAPE {
                p += 1;
                if is_of(byte, self.p(p)) {
                    return inside;
                }
            } else if self.p(p + 1) == b'-' && p + 2 < end {
                if (self.p(p)..=self.p(p + 2)).contains(&byte) {
                    return inside;
                }
                p += 2;
            } else if self.p(p) == byte {
                return inside;
            }
            p += 1;
        }
        !inside
    }
}

/// Returns whether a pattern has no special characters, so that it is searched for as plain text.
pub(super) fn is_plain(pattern: &[u8]) -> bool {
    !pattern.iter().any(|byte| b"^$*+?.([%-".contains(byte))
}

/// Returns the steps that a class costs more than a single byte.
fn width(p: usize, end: usize) -> usize {
    (end - p) / 16
}

fn is_open(capture: &Capture) -> bool {
    matches!(capture, Capture::Open(_))
}

/// Returns whether a byte is of a class such as `%a`; any other character stands for itself.
fn is_of(byte: u8, class: u8) -> bool {
    let is = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'g' => byte.is_ascii_graphic(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => matches!(byte, b' ' | b'\t'..=b'\r'),
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    is == class.is_ascii_lowercase()
}
