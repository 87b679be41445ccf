//! What a call of a Lua hook costs.
//!
//! Prints the cost inside the worker, the round trip through the pool one by one and with 64
//! calls under way, and each as a ratio to a baseline measured in the same run: a task that is
//! handed to a thread and back by the same means, without a script.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use stablegate::hooks::Roster;
use stablegate::hooks::lua::{LuaHook, Pool};
use stablegate::hooks::shared::Shared;
use stablegate::hooks::spec::{Environment, Limits, Spec};
use stablegate::hooks::{Attrs, Call, Hook, Question, SessionInfo};
use tokio::sync::oneshot;

const CALLS: u32 = 200_000;
const PIPELINED: usize = 64;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let pool = Pool::per_processor();
    let plain = load(&pool, "function select_target(s) return s.target end");
    let busy = load(
        &pool,
        "function select_target(s)
           gateway.shared.incr('sessions', 1, 60)
           s.attrs.seen = true
           if s.client_addr:match('^10%.') then return {addr = '10.0.0.1:80'} end
           return s.target or 'lobby'
         end",
    );
    runtime.block_on(async {
        // Threads, interpreters and caches.
        measure("", &plain, CALLS / 10, 1, 1.0, false).await;
        let single = baseline(1).await;
        let many = baseline(PIPELINED).await;
        println!("baseline, handed to a thread and back: {single:.2} µs one by one, {many:.2} µs × {PIPELINED}");
        for (name, hook) in [("return s.target", &plain), ("counter, attrs, match", &busy)] {
            measure(name, hook, CALLS / 4, 1, single, true).await;
            measure(name, hook, CALLS, PIPELINED, many, true).await;
        }
    });
    fresh(&pool);
}

fn load(pool: &Arc<Pool>, text: &str) -> LuaHook {
    let file = tempfile::Builder::new()
        .suffix(".lua")
        .tempfile()
        .expect("a file can be made");
    std::fs::write(file.path(), text).expect("the file can be written");
    LuaHook::load(
        pool,
        Spec {
            name: "bench".into(),
            path: file.path().into(),
            limits: Limits {
                timeout: Duration::from_secs(1),
                wall_timeout: Duration::from_secs(20),
                load_timeout: Duration::from_secs(5),
                memory: 32 * 1024 * 1024,
            },
            config: serde_json::Map::new(),
            environment: Environment {
                shared: Arc::new(Shared::default()),
                resolver: Arc::default(),
                hosts: Vec::new(),
                fastway: Roster::default(),
                grown: Arc::default(),
            },
            modules: Vec::new(),
        },
    )
    .expect("the script loads")
}

async fn measure(name: &str, hook: &LuaHook, calls: u32, width: usize, baseline: f64, print: bool) {
    let addr = |text: &str| text.parse().expect("an address");
    let info = Arc::new(SessionInfo {
        id: 1,
        session: "scp",
        target: Some("lobby".into()),
        ..SessionInfo::new("game", addr("192.0.2.1:50000"), addr("192.0.2.2:1248"))
    });
    let each = calls / width as u32;
    let started = Instant::now();
    let tasks: Vec<_> = (0..width)
        .map(|_| {
            let (hook, info) = (hook.clone(), info.clone());
            tokio::spawn(async move {
                let mut costs = Vec::with_capacity(each as usize);
                for _ in 0..each {
                    let call = Call {
                        question: Question::SelectTarget,
                        info: info.clone(),
                        attrs: Attrs::new(),
                    };
                    let reply = hook.call(call).await;
                    reply.answer.expect("the script answers");
                    costs.push(reply.cost);
                }
                costs
            })
        })
        .collect();
    let mut costs = Vec::new();
    for task in tasks {
        costs.extend(task.await.expect("the task ends"));
    }
    let trip = started.elapsed().as_secs_f64() * 1e6 / costs.len() as f64;
    costs.sort_unstable();
    let at = |share: f64| costs[(costs.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    if print {
        println!(
            "{name}, × {width}: in the worker {:.2} µs (median; p99 {:.2}), per call {trip:.2} µs = {:.2} × baseline",
            at(0.5),
            at(0.99),
            trip / baseline,
        );
    }
}

/// The round trip of a closure to a thread and its answer back, in µs.
async fn baseline(width: usize) -> f64 {
    let (jobs, queue) = mpsc::channel::<oneshot::Sender<u32>>();
    let worker = std::thread::spawn(move || {
        for reply in queue {
            let _ = reply.send(1);
        }
    });
    let each = CALLS / 4 / width as u32;
    let started = Instant::now();
    let tasks: Vec<_> = (0..width)
        .map(|_| {
            let jobs = jobs.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    let (reply, answer) = oneshot::channel();
                    jobs.send(reply).expect("the worker is there");
                    answer.await.expect("the worker answers");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("the task ends");
    }
    let trip = started.elapsed().as_secs_f64() * 1e6 / f64::from(each * width as u32);
    drop(jobs);
    worker.join().expect("the worker ends");
    trip
}

/// A script read and run once, on a worker.
fn fresh(pool: &Arc<Pool>) {
    const LOADS: u32 = 500;
    let started = Instant::now();
    for _ in 0..LOADS {
        load(pool, "function select_target(s) return s.target end");
    }
    let each = started.elapsed().as_secs_f64() * 1e6 / f64::from(LOADS);
    println!("load, a fresh interpreter included: {each:.0} µs");
}
