//! What holds for the source itself.

mod invariants;
mod layers;
