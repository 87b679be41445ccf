//! Encoding 10+3 shards of 1400 bytes: each kernel of this machine against the crate
//! `reed-solomon-erasure` (without its C code), in data bytes per second; then whole datagrams
//! through the packet level with the best kernel. Rounds alternate between the candidates, so a
//! slow moment of the machine hits all of them; the median round counts. The required figure is
//! 4 GB/s where AVX2 is there.

use std::hint::black_box;
use std::time::{Duration, Instant};

use stablegate_kcp::fec::{Decoder, Encoder, Shape, Shard};
use stablegate_kcp::internal::{Kernel, ReedSolomon, Rows};

const DATA: usize = 10;
const PARITY: usize = 3;
const LEN: usize = 1400;
const ROUNDS: usize = 31;
const ROUND: Duration = Duration::from_millis(20);

fn shape() -> Shape {
    Shape::new(DATA, PARITY).expect("a fine shape")
}

type Candidate = (String, Box<dyn FnMut()>);

fn main() {
    let mut candidates: Vec<Candidate> = vec![oracle()];
    candidates.extend(Kernel::available().map(codec));
    candidates.push(sealing());
    for lost in [0, 1, PARITY] {
        candidates.push(receiving(lost));
    }

    let mut rates = vec![Vec::new(); candidates.len()];
    for _ in 0..ROUNDS {
        for ((_, encode), rates) in candidates.iter_mut().zip(&mut rates) {
            rates.push(rate(encode));
        }
    }
    let medians: Vec<f64> = rates.into_iter().map(median).collect();

    println!("{DATA}+{PARITY} × {LEN} bytes, data bytes per second:");
    for ((name, _), rate) in candidates.iter().zip(&medians) {
        println!("{name:<28}{rate:>8.2} GB/s{:>8.2} ×", rate / medians[0]);
    }
}

/// The crate other Rust programs use, with its scalar Rust code.
fn oracle() -> Candidate {
    let code =
        reed_solomon_erasure::galois_8::ReedSolomon::new(DATA, PARITY).expect("a fine shape");
    let shards = shards();
    let mut parity = vec![vec![0; LEN]; PARITY];
    let encode = move || {
        code.encode_sep(black_box(&shards), &mut parity)
            .expect("equal lengths");
        black_box(&parity);
    };
    ("reed-solomon-erasure".into(), Box::new(encode))
}

/// The codec, buffers allocated for every group as the packet level does.
fn codec(kernel: Kernel) -> Candidate {
    let code = ReedSolomon::with_kernel(shape(), kernel);
    let shards = shards();
    let encode = move || {
        let mut sums = Rows::new(PARITY, 6);
        for (index, shard) in shards.iter().enumerate() {
            code.add_data(index, black_box(shard), &mut sums);
        }
        black_box(&sums);
    };
    (kernel.name().into(), Box::new(encode))
}

/// The encoder, headers written in place.
fn sealing() -> Candidate {
    let mut encoder = Encoder::new(shape());
    let mut datagrams = shards();
    let encode = move || {
        for datagram in &mut datagrams {
            black_box(encoder.seal(black_box(datagram)).expect("a fine length"));
        }
    };
    ("Encoder::seal".into(), Box::new(encode))
}

/// The decoder, the first `lost` data shards of every group missing.
fn receiving(lost: usize) -> Candidate {
    let mut encoder = Encoder::new(shape());
    let mut decoder = Decoder::new(shape());
    let mut datagrams = shards();
    let mut group = Vec::new();
    for datagram in &mut datagrams {
        let parity = encoder.seal(datagram).expect("a fine length");
        group.push(datagram.clone());
        group.extend(
            parity
                .iter()
                .flat_map(|p| p.datagrams())
                .map(<[u8]>::to_vec),
        );
    }
    let mut first = 0;
    let decode = move || {
        for (place, datagram) in group.iter_mut().enumerate().skip(lost) {
            let id = first + place as u32;
            datagram[..4].copy_from_slice(&id.to_le_bytes());
            let shard = Shard::parse(black_box(datagram)).expect("our own");
            black_box(decoder.input(&shard).expect("our own"));
        }
        first = (first + (DATA + PARITY) as u32) % 13_000;
    };
    (
        format!("Decoder::input, {lost} of {DATA} lost"),
        Box::new(decode),
    )
}

/// Shards, or datagrams whose first bytes the header will take.
fn shards() -> Vec<Vec<u8>> {
    let byte = |shard: usize, at: usize| (shard * 71 + at * 13 + (at >> 5)) as u8;
    let shard = |shard| (0..LEN).map(|at| byte(shard, at)).collect();
    (0..DATA).map(shard).collect()
}

/// GB of data a second over one round.
fn rate(encode: &mut dyn FnMut()) -> f64 {
    let (start, mut groups) = (Instant::now(), 0);
    while start.elapsed() < ROUND {
        for _ in 0..20 {
            encode();
        }
        groups += 20;
    }
    (groups * DATA * LEN) as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
