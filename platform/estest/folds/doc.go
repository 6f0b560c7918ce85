// Package folds kills projectors. Its tests run a real projector process with several views against a log that goes on growing, end it with
// SIGKILL at random moments and in the middle of everything that can be done to a view, cut the power, flip bits, and hold every row, index
// entry, dead letter and position of every build against a plain fold of the log in memory, which shares no code with the projector but
// the views themselves. docs/reliability.md has what it found.
package folds
