//! The resumable core under any sequence of pushes, deliveries and cuts: no byte is lost, doubled
//! or reordered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stablegate::internal::crypto::Rc4;
use stablegate::internal::session::Core;

const LIMIT: usize = 256;

fuzz_target!(|steps: Vec<(u8, u8)>| {
    let cipher = || Some(Rc4::new(b"the same on both ends"));
    let mut sender = Core::new(None, cipher(), LIMIT);
    let mut receiver = Core::new(cipher(), None, LIMIT);
    let (mut sent, mut arrived, mut flying) = (Vec::new(), Vec::new(), Vec::new());
    for (step, amount) in steps {
        let amount = usize::from(amount);
        match step % 4 {
            0 => {
                let bytes: Vec<u8> = (0..amount).map(|n| (sent.len() + n) as u8).collect();
                let taken = sender.push(&bytes);
                sent.extend_from_slice(&bytes[..taken]);
            }
            1 => {
                let (a, b) = sender.unsent();
                let taken: Vec<u8> = a.iter().chain(b).copied().take(amount).collect();
                sender.written(taken.len());
                flying.extend(taken);
            }
            2 => {
                let mut bytes: Vec<u8> = flying.drain(..amount.min(flying.len())).collect();
                arrived.extend(&*receiver.receive(&mut bytes));
                sender.acknowledge(flying.len());
            }
            _ => {
                // Some arrives after the receiver has told what it has.
                let told = receiver.received();
                let mut late: Vec<u8> = flying.drain(..amount.min(flying.len())).collect();
                arrived.extend(&*receiver.receive(&mut late));
                flying.clear();
                receiver.resume(0).expect("it has sent nothing");
                receiver.receive_from(told);
                sender.resume(told).expect("every cut resumes");
            }
        }
        assert!(sent.starts_with(&arrived));
    }
});
