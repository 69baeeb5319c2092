package spec

// Holding is one binding that a node holds, in its own words.
type Holding struct {
	UID   string
	Epoch int64
	// Live: it may go on under this epoch: it runs, nobody has said that it ends, and if it is fenced its deadline has not passed.
	Live bool
	// Final: it has finished, and nothing of it runs or will.
	Final bool
}
