//! See the files beside `src`: each is a program of its own.
