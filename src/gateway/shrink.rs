//! Replay buffers that take too much memory together, and memory that nobody needs any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::state::State;

/// How long sessions have to do what they were asked for, and how long to wait when there was
/// nobody to ask.
const PAUSE: Duration = Duration::from_millis(100);
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// Shortage is said to be there no more often than that.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// An eighth of the limit is freed beyond what is lacking, so as not to come back at once.
const MARGIN: usize = 8;

/// Has the idlest sessions give memory back whenever there is too little, until the shutdown.
pub(super) async fn relieve(state: Arc<State>) {
    let relieving = async {
        let mut reported = None::<Instant>;
        loop {
            state.memory.short().await;
            let asked = ask(&state);
            if reported.is_none_or(|reported| reported.elapsed() >= REPORT_EVERY) {
                reported = Some(Instant::now());
                tracing::warn!(
                    used = state.memory.used(),
                    limit = state.memory.limit(),
                    sessions = asked,
                    "too much memory in replay buffers, idle sessions shrink"
                );
            }
            sleep(if asked > 0 { PAUSE } else { LONG_PAUSE }).await;
        }
    };
    state.shutdown.interrupts(relieving).await;
}

/// How often to look for memory that nobody needs any more, and how much more of it than there was
/// left the last time is worth the effort, bytes.
#[cfg(target_env = "gnu")]
const LOOK: Duration = Duration::from_secs(2);
#[cfg(target_env = "gnu")]
const WORTHWHILE: usize = 32 << 20;

/// Gives memory back to the system that has become free since the last time, until the shutdown.
/// By itself this allocator does so only with what is free at the end of what it has.
#[cfg(target_env = "gnu")]
pub(super) async fn give_back(state: Arc<State>) {
    let giving = async {
        let mut least = usize::MAX;
        loop {
            sleep(LOOK).await;
            // Both may take a while.
            let looking = tokio::task::spawn_blocking(move || {
                let unused = unused();
                if unused < least.saturating_add(WORTHWHILE) {
                    return least.min(unused);
                }
                // SAFETY: what it gives back is free.
                unsafe { libc::malloc_trim(0) };
                self::unused()
            });
            least = looking.await.unwrap_or(least);
        }
    };
    state.shutdown.interrupts(giving).await;
}

/// Memory that is resident and not allocated, code and the like included, bytes.
#[cfg(target_env = "gnu")]
fn unused() -> usize {
    // SAFETY: it takes nothing and tells numbers.
    let info = unsafe { libc::mallinfo2() };
    // SAFETY: it tells a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|it| it.parse().ok());
    let resident = page * pages.unwrap_or(0);
    resident.saturating_sub(info.uordblks + info.hblkhd)
}

/// Asks as many sessions as have what is to be freed, those first that were idle longest. Returns
/// how many.
fn ask(state: &State) -> usize {
    let Some(limit) = state.memory.limit() else {
        return 0;
    };
    let lacking = state.memory.used().saturating_sub(limit - limit / MARGIN);
    let mut spares: Vec<_> = {
        let table = state.table();
        let spares = table.iter().map(|(id, entry)| (entry.handle.spare(), id));
        spares.filter(|(spare, _)| spare.bytes > 0).collect()
    };
    spares.sort_unstable_by_key(|(spare, _)| spare.active);
    let mut freed = 0;
    let mut asked = 0;
    for (spare, id) in spares {
        if freed >= lacking {
            break;
        }
        let entry = state.table().get(id).cloned();
        if let Some(entry) = entry {
            entry.handle.shrink();
            freed += spare.bytes;
            asked += 1;
        }
    }
    asked
}
