package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

// Streams keeps gRPC streams open, `each` on every connection, and echoes messages over them, one at a time on each
// stream. Frames are written and read by hand: what is wanted is a cheap generator, and it sees the answer's messages
// only as so many bytes of DATA, however the proxy cut them.
func streams(opened []net.Conn, host, path string, extra [][2]string, each, size int, seconds float64) result {
	var all tally
	var working sync.WaitGroup
	until := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	for _, connection := range opened {
		working.Add(1)
		go func() {
			defer working.Done()
			took, err := talk(connection, host, path, extra, each, size, until)
			failed := 0
			if err != nil {
				failed = 1
			}
			all.add(took, failed)
		}()
	}
	working.Wait()
	return all.result(seconds)
}

type call struct {
	sent  time.Time
	bytes int
}

func talk(connection net.Conn, host, path string, extra [][2]string, each, size int, until time.Time) ([]float64, error) {
	out := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	out = frame(out, 4, 0, 0, []byte{0, 4, 0x3f, 0xff, 0xff, 0xff}) // SETTINGS: windows that never fill
	out = frame(out, 8, 0, 0, []byte{0x3f, 0, 0, 0})
	fields := [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", host},
		{"content-type", "application/grpc"}, {"te", "trailers"}}
	var head []byte
	for _, field := range append(fields, extra...) { // literals, never indexed, lengths below 127
		head = append(append(append(head, 0, byte(len(field[0]))), field[0]...), byte(len(field[1])))
		head = append(head, field[1]...)
	}
	message := binary.BigEndian.AppendUint32([]byte{0}, uint32(size))
	message = append(message, make([]byte, size)...)

	calls := map[uint32]*call{}
	for at := range each {
		id := uint32(2*at + 1)
		out = frame(out, 1, 4, id, head)
		out = frame(out, 0, 0, id, message)
		calls[id] = &call{sent: time.Now()}
	}
	reader := bufio.NewReaderSize(connection, 64<<10)
	window := 65535 - each*len(message) // of the connection, ours to send; streams' own never fill first
	var took []float64
	var waiting []uint32
	payload := make([]byte, 1<<24)
	for len(calls) > 0 {
		if reader.Buffered() < 9 && len(out) > 0 {
			if _, err := connection.Write(out); err != nil {
				return took, err
			}
			out = out[:0]
		}
		header, err := reader.Peek(9)
		if err != nil {
			return took, err
		}
		length := int(header[0])<<16 | int(header[1])<<8 | int(header[2])
		kind, flags, id := header[3], header[4], binary.BigEndian.Uint32(header[5:])&0x7fffffff
		reader.Discard(9)
		if _, err = io.ReadFull(reader, payload[:length]); err != nil {
			return took, err
		}
		switch one := calls[id]; kind {
		case 0:
			if one == nil {
				break
			}
			out = credit(out, id, length)
			if one.bytes += length; one.bytes < len(message) {
				break
			}
			one.bytes = 0
			now := time.Now()
			took = append(took, now.Sub(one.sent).Seconds())
			if now.After(until) {
				out = frame(out, 0, 1, id, nil)
				break
			}
			one.sent = now
			if waiting = append(waiting, id); window < len(message) {
				break
			}
			fallthrough
		case 8:
			if kind == 8 && id == 0 {
				window += int(binary.BigEndian.Uint32(payload))
			}
			for len(waiting) > 0 && window >= len(message) {
				out = frame(out, 0, 0, waiting[0], message)
				window -= len(message)
				waiting = waiting[1:]
			}
		case 1:
			if flags&1 != 0 { // trailers
				delete(calls, id)
			}
		case 3, 7:
			return took, io.ErrUnexpectedEOF
		case 4:
			if flags&1 == 0 {
				out = frame(out, 4, 1, 0, nil)
			}
		case 6:
			if flags&1 == 0 {
				out = frame(out, 6, 1, 0, payload[:8])
			}
		}
	}
	return took, nil
}

func credit(out []byte, id uint32, length int) []byte {
	if length == 0 {
		return out
	}
	grant := binary.BigEndian.AppendUint32(nil, uint32(length))
	return frame(frame(out, 8, 0, 0, grant), 8, 0, id, grant)
}

func frame(out []byte, kind, flags byte, id uint32, payload []byte) []byte {
	size := len(payload)
	out = append(out, byte(size>>16), byte(size>>8), byte(size), kind, flags)
	out = binary.BigEndian.AppendUint32(out, id)
	return append(out, payload...)
}
