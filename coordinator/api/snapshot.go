package api

import (
	"bufio"
	"fmt"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

const (
	// maxPiece bounds a piece of a snapshot, in bytes.
	maxPiece = 64 << 10
	// maxCopies bounds the snapshots that are sent at a time.
	maxCopies = 2
)

// pieces sends what is written to it.
type pieces struct {
	stream musterv1.ClusterService_SaveSnapshotServer
}

func (p *pieces) Write(b []byte) (int, error) {
	for sent := 0; sent < len(b); {
		n := min(maxPiece, len(b)-sent)
		if err := p.stream.Send(&musterv1.SaveSnapshotResponse{Data: b[sent : sent+n]}); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(b), nil
}

func (s *clusterService) SaveSnapshot(_ *musterv1.SaveSnapshotRequest, stream musterv1.ClusterService_SaveSnapshotServer) error {
	if s.deps.Snapshot == nil {
		return fmt.Errorf("snapshot of a store in memory: %w", ErrNotBuilt)
	}
	select {
	case s.copying <- struct{}{}:
		defer func() { <-s.copying }()
	default:
		return ErrTooManyCopies
	}
	out := bufio.NewWriterSize(&pieces{stream}, maxPiece)
	if err := s.deps.Snapshot(stream.Context(), out); err != nil {
		return err
	}
	return out.Flush()
}
