// Package embedded has the tiny binary inside muster's own: built with the tag supervisor_embedded, after the file
// "supervisor" has been built next to this one, it embeds that; else it has none, and muster starts itself instead.
package embedded
