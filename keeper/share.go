package keeper

// ShareClient is a Client for one of several shares: its keys are those of that share.
type ShareClient struct {
	client *Client
	share  uint16
}

// Share is the client for a share, from 0 on.
func (c *Client) Share(share int) *ShareClient { return &ShareClient{c, uint16(share)} }

// Keep is Client.Keep.
func (s *ShareClient) Keep(k Key, fd int) error { return s.client.Keep(k.Of(int(s.share)), fd) }

// Drop is Client.Drop.
func (s *ShareClient) Drop(k Key) { s.client.Drop(k.Of(int(s.share))) }

// Take is Client.Take.
func (s *ShareClient) Take(k Key) (fd int, ok bool) { return s.client.Take(k.Of(int(s.share))) }

// Kept is Client.Kept for what is the share's.
func (s *ShareClient) Kept() (keys []Key) {
	for _, k := range s.client.Kept() {
		if k.Share == s.share {
			keys = append(keys, k.Of(0))
		}
	}
	return keys
}

// DropPins drops the pins of nodes, open files and locks.
func (s *ShareClient) DropPins() {
	for _, k := range s.client.holds() {
		if k.Share == s.share && k.Kind.isPin() {
			s.client.Drop(k)
		}
	}
}
