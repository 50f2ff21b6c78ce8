// Backend answers as cheaply as a process can, so that what is measured is the way to it.
//
// One port speaks HTTP/1.1 (any path: a dozen bytes after the whole request body was read; /bytes/N: N bytes; Upgrade:
// a WebSocket that echoes), and HTTP/2 to connections that open with its preface (a GET gets five bytes, a POST is
// echoed as gRPC: what comes is sent back as it comes, then trailers say OK). It answers the probes of activators on any
// path. With -silent it reads what comes over WebSockets and forgets it. Heads are read only as far as needed: this is no server for anything but a load generator's requests.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"flag"
	"io"
	"log"
	"net"
	"strconv"
)

const longestHead = 64 << 10

var (
	hello  = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello world\n")
	probe  = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nqueue")
	silent = false
	block  = bytes.Repeat([]byte("0123456789abcdef"), 4096)
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	flag.BoolVar(&silent, "silent", false, "do not echo what comes over WebSockets: stand in for an autoscaler")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(connection)
	}
}

func serve(connection net.Conn) {
	defer connection.Close()
	reader := bufio.NewReaderSize(connection, longestHead)
	if start, err := reader.Peek(3); err == nil && string(start) == "PRI" {
		serveFrames(connection, reader)
		return
	}
	for {
		head, err := readHead(reader)
		if err != nil {
			return
		}
		if head.key != "" {
			echo(connection, reader, head.key)
			return
		}
		if head.chunked {
			err = discardChunks(reader)
		} else if head.length > 0 {
			_, err = io.CopyN(io.Discard, reader, head.length)
		}
		if err != nil || answer(connection, head) != nil || head.close {
			return
		}
	}
}

type head struct {
	length  int64  // of the body
	size    int64  // of the answer to /bytes/N, else -1
	key     string // of a WebSocket handshake
	chunked bool
	close   bool
	probe   bool
}

func readHead(reader *bufio.Reader) (head, error) {
	found := head{size: -1}
	line, err := reader.ReadSlice('\n')
	if err != nil {
		return found, err
	}
	if at := bytes.Index(line, []byte(" /bytes/")); at > 0 {
		digits, _, _ := bytes.Cut(line[at+len(" /bytes/"):], []byte(" "))
		if found.size, err = strconv.ParseInt(string(digits), 10, 64); err != nil {
			return found, err
		}
	}
	for {
		line, err = reader.ReadSlice('\n')
		if err != nil || len(line) <= 2 {
			return found, err
		}
		switch line[0] | 0x20 {
		case 'c', 'k', 's', 't':
			name, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimSpace(value)
			switch {
			case bytes.EqualFold(name, []byte("Content-Length")):
				if found.length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
					return found, err
				}
			case bytes.EqualFold(name, []byte("Transfer-Encoding")):
				found.chunked = true
			case bytes.EqualFold(name, []byte("Connection")):
				found.close = bytes.EqualFold(value, []byte("close"))
			case bytes.EqualFold(name, []byte("K-Network-Probe")):
				found.probe = true
			case bytes.EqualFold(name, []byte("Sec-WebSocket-Key")):
				found.key = string(value)
			}
		}
	}
}

func discardChunks(reader *bufio.Reader) error {
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64)
		if err != nil {
			return err
		}
		if _, err = io.CopyN(io.Discard, reader, size+2); err != nil || size == 0 {
			return err
		}
	}
}

func answer(connection net.Conn, asked head) error {
	switch {
	case asked.probe:
		_, err := connection.Write(probe)
		return err
	case asked.size < 0:
		_, err := connection.Write(hello)
		return err
	}
	_, err := connection.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: " +
		strconv.FormatInt(asked.size, 10) + "\r\n\r\n"))
	for left := asked.size; err == nil && left > 0; left -= int64(len(block)) {
		_, err = connection.Write(block[:min(left, int64(len(block)))])
	}
	return err
}

// Echo accepts a WebSocket and sends every frame back unmasked, until the client closes or breaks it.
func echo(connection net.Conn, reader *bufio.Reader, key string) {
	digest := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	accept := base64.StdEncoding.EncodeToString(digest[:])
	if _, err := connection.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n" +
		"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n")); err != nil {
		return
	}
	var frame []byte
	for {
		start, err := reader.Peek(2)
		if err != nil {
			return
		}
		length, header := int(start[1]&0x7f), 2
		switch length {
		case 126:
			header = 4
			if start, err = reader.Peek(4); err != nil {
				return
			}
			length = int(start[2])<<8 | int(start[3])
		case 127:
			return // longer than a load generator of ours sends
		}
		frame = append(frame[:0], start[:header]...)
		frame[1] &= 0x7f
		var mask [4]byte
		if _, err = reader.Discard(header); err == nil {
			_, err = io.ReadFull(reader, mask[:])
		}
		frame = append(frame, make([]byte, length)...)
		if err == nil {
			_, err = io.ReadFull(reader, frame[header:])
		}
		if err != nil {
			return
		}
		for at := range frame[header:] {
			frame[header+at] ^= mask[at&3]
		}
		closing := frame[0]&0x0f == 8
		if frame[0]&0x0f == 9 {
			frame[0]++ // a ping is answered by a pong
		}
		if silent && frame[0]&0x0f < 8 {
			continue
		}
		if _, err = connection.Write(frame); err != nil || closing {
			return
		}
	}
}
