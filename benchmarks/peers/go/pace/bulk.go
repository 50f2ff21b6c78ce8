package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

var block = bytes.Repeat([]byte("0123456789abcdef"), 4096)

// Bulk moves large bodies over each connection, up if `upload` is not zero, and ends when all have arrived: a fixed
// amount of work, since a fixed time would cut bodies off in the middle.
func bulk(opened []net.Conn, host, path, extra string, upload int64, times int) result {
	var all tally
	var working sync.WaitGroup
	begun := time.Now()
	for _, connection := range opened {
		working.Add(1)
		go func() {
			defer working.Done()
			reader := bufio.NewReaderSize(connection, 256<<10)
			for range times {
				started := time.Now()
				if err := move(connection, reader, host, path, extra, upload); err != nil {
					all.add(nil, 1)
					return
				}
				all.add([]float64{time.Since(started).Seconds()}, 0)
			}
		}()
	}
	working.Wait()
	return all.result(time.Since(begun).Seconds())
}

func move(connection net.Conn, reader *bufio.Reader, host, path, extra string, upload int64) error {
	method, length := "GET", ""
	if upload > 0 {
		method, length = "POST", fmt.Sprintf("Content-Length: %d\r\n", upload)
	}
	if _, err := fmt.Fprintf(connection, "%s %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n", method, path, host, extra, length); err != nil {
		return err
	}
	for left := upload; left > 0; left -= int64(len(block)) {
		if _, err := connection.Write(block[:min(left, int64(len(block)))]); err != nil {
			return err
		}
	}
	status, err := skipAnswer(reader)
	if err == nil && status != 200 {
		err = io.ErrUnexpectedEOF
	}
	return err
}
