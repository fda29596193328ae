package fuseproto

import "testing"

func TestInitFlagsString(t *testing.T) {
	for _, c := range []struct {
		flags InitFlags
		want  string
	}{
		{0, "none"},
		{InitAsyncRead, "ASYNC_READ"},
		{InitExt | InitSecurityCtx, "INIT_EXT SECURITY_CTX"},
		{InitRequestTimeout | 1<<63, "REQUEST_TIMEOUT bit 63"},
		{InitSubmounts | InitHandleKillprivV2, "SUBMOUNTS HANDLE_KILLPRIV_V2"},
		{InitAllowIdmap, "ALLOW_IDMAP"},
	} {
		if got := c.flags.String(); got != c.want {
			t.Errorf("%#x: %q, want %q", uint64(c.flags), got, c.want)
		}
	}
}
