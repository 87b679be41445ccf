//! Output of the crate `kcp`.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

/// Datagrams end to end in one buffer, so that collecting them costs the crate a copy and no more.
#[derive(Clone, Default)]
pub struct Outbox(pub Rc<RefCell<(Vec<u8>, Vec<usize>)>>);

impl io::Write for Outbox {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        let (bytes, ends) = &mut *self.0.borrow_mut();
        bytes.extend_from_slice(datagram);
        ends.push(bytes.len());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
