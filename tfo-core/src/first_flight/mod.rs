//! What may ride: see [`FirstFlight`].
