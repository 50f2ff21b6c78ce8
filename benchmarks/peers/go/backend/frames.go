package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
)

// HTTP/2 by frames alone: header blocks are skipped, not decoded, and ours use no table, so there is no state to keep.

const (
	data         = 0
	headers      = 1
	rstStream    = 3
	settings     = 4
	ping         = 6
	goAway       = 7
	windowUpdate = 8

	endStream  = 1 // also the ACK of SETTINGS and PING
	endHeaders = 4

	initialWindow = 65535
	credit        = 1 << 24 // what the peer may send per stream; never the bottleneck
)

var (
	// :status 200, content-type text/plain; literals that nobody shall index
	plainHead = []byte("\x88\x0f\x10\x0atext/plain")
	grpcHead  = []byte("\x88\x0f\x10\x10application/grpc")
	grpcTail  = []byte("\x00\x0bgrpc-status\x010")
	plainBody = []byte("queue")
)

type stream struct {
	window  int
	started bool
	plain   bool   // no gRPC: the last byte ends it
	ended   bool   // by the client
	waiting []byte // for window
}

type session struct {
	out     []byte
	window  int
	initial int
	streams map[uint32]*stream
	owed    int // received bytes of the connection not yet given back
}

func serveFrames(connection net.Conn, reader *bufio.Reader) {
	if _, err := reader.Discard(24); err != nil {
		return
	}
	s := &session{window: initialWindow, initial: initialWindow, streams: map[uint32]*stream{}}
	s.frame(settings, 0, 0, []byte{0, 3, 0, 0, 4, 0, 0, 4, 1, 0, 0, 0}) // 1024 streams, windows of `credit`
	s.update(0, credit)
	var payload []byte
	for {
		header, err := reader.Peek(9)
		if err != nil {
			return
		}
		length := int(header[0])<<16 | int(header[1])<<8 | int(header[2])
		kind, flags, id := header[3], header[4], binary.BigEndian.Uint32(header[5:])&0x7fffffff
		if cap(payload) < length {
			payload = make([]byte, length)
		}
		payload = payload[:length]
		if _, err = reader.Discard(9); err == nil {
			_, err = io.ReadFull(reader, payload)
		}
		if err != nil || !s.received(kind, flags, id, payload) {
			return
		}
		if reader.Buffered() < 9 || len(s.out) > 1<<16 { // answer all that came together in one write
			if s.owed > 0 {
				s.update(0, s.owed)
				s.owed = 0
			}
			if len(s.out) > 0 {
				if _, err = connection.Write(s.out); err != nil {
					return
				}
				s.out = s.out[:0]
			}
		}
	}
}

func (s *session) received(kind, flags byte, id uint32, payload []byte) bool {
	switch kind {
	case headers:
		if flags&endStream != 0 && s.streams[id] == nil {
			s.frame(headers, endHeaders, id, plainHead)
			if s.window < len(plainBody) {
				s.streams[id] = &stream{window: s.initial, started: true, plain: true, ended: true}
				s.streams[id].waiting = append(s.streams[id].waiting, plainBody...)
				return true
			}
			s.frame(data, endStream, id, plainBody)
			s.window -= len(plainBody)
			return true
		}
		if s.streams[id] == nil {
			s.streams[id] = &stream{window: s.initial}
		}
		if flags&endStream != 0 {
			s.streams[id].ended = true
			s.flush(id)
		}
	case data:
		one := s.streams[id]
		if one == nil {
			return true
		}
		s.owed += len(payload)
		if flags&8 != 0 { // padded
			payload = payload[1 : len(payload)-int(payload[0])]
		}
		one.waiting = append(one.waiting, payload...)
		one.ended = flags&endStream != 0
		if !one.ended && len(payload) > 0 {
			s.update(id, len(payload))
		}
		s.flush(id)
	case rstStream:
		delete(s.streams, id)
	case settings:
		if flags&endStream != 0 {
			return true
		}
		for at := 0; at+6 <= len(payload); at += 6 {
			if binary.BigEndian.Uint16(payload[at:]) == 4 {
				now := int(binary.BigEndian.Uint32(payload[at+2:]))
				for _, one := range s.streams {
					one.window += now - s.initial
				}
				s.initial = now
			}
		}
		s.frame(settings, endStream, 0, nil)
	case ping:
		if flags&endStream == 0 {
			s.frame(ping, endStream, 0, payload)
		}
	case goAway:
		return false
	case windowUpdate:
		more := int(binary.BigEndian.Uint32(payload) & 0x7fffffff)
		if id == 0 {
			s.window += more
			for id := range s.streams {
				s.flush(id)
			}
		} else if one := s.streams[id]; one != nil {
			one.window += more
			s.flush(id)
		}
	}
	return true
}

// Flush sends what waits on a stream as far as the windows allow, and the trailers after the last of it.
func (s *session) flush(id uint32) {
	one := s.streams[id]
	if !one.started && (len(one.waiting) > 0 || one.ended) {
		one.started = true
		s.frame(headers, endHeaders, id, grpcHead)
	}
	for len(one.waiting) > 0 {
		size := min(len(one.waiting), one.window, s.window, 16384)
		if size <= 0 {
			return
		}
		last := byte(0)
		if one.plain && size == len(one.waiting) {
			last = endStream
		}
		s.frame(data, last, id, one.waiting[:size])
		one.window -= size
		s.window -= size
		one.waiting = one.waiting[:copy(one.waiting, one.waiting[size:])]
	}
	if one.ended {
		if !one.plain {
			s.frame(headers, endHeaders|endStream, id, grpcTail)
		}
		delete(s.streams, id)
	}
}

func (s *session) update(id uint32, size int) {
	s.frame(windowUpdate, 0, id, binary.BigEndian.AppendUint32(nil, uint32(size)))
}

func (s *session) frame(kind, flags byte, id uint32, payload []byte) {
	size := len(payload)
	s.out = append(s.out, byte(size>>16), byte(size>>8), byte(size), kind, flags)
	s.out = binary.BigEndian.AppendUint32(s.out, id)
	s.out = append(s.out, payload...)
}
