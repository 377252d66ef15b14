package main

import (
	"context"
	"errors"
	"os"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// fileConfig is what the Collector's configuration says of one exporter.
type fileConfig struct {
	Path string `mapstructure:"path"`
}

func (config *fileConfig) Validate() error {
	if config.Path == "" {
		return errors.New("path is missing: say which file to append to")
	}
	return nil
}

// appender writes each batch as one line of OTLP in JSON, as the Collector understood it.
type appender struct {
	path string
}

func fileExporter() exporter.Factory {
	return exporter.NewFactory(
		component.MustNewType("file"),
		func() component.Config { return &fileConfig{} },
		exporter.WithLogs(func(_ context.Context, _ exporter.Settings, config component.Config) (exporter.Logs, error) {
			return &appender{path: config.(*fileConfig).Path}, nil
		}, component.StabilityLevelDevelopment),
		exporter.WithTraces(func(_ context.Context, _ exporter.Settings, config component.Config) (exporter.Traces, error) {
			return &appender{path: config.(*fileConfig).Path}, nil
		}, component.StabilityLevelDevelopment),
	)
}

func (*appender) Start(context.Context, component.Host) error { return nil }

func (*appender) Shutdown(context.Context) error { return nil }

func (*appender) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (appender *appender) ConsumeLogs(_ context.Context, logs plog.Logs) error {
	return appender.write((&plog.JSONMarshaler{}).MarshalLogs(logs))
}

func (appender *appender) ConsumeTraces(_ context.Context, traces ptrace.Traces) error {
	return appender.write((&ptrace.JSONMarshaler{}).MarshalTraces(traces))
}

// write appends the line in one call, so that batches that come at the same time do not mix.
func (appender *appender) write(line []byte, err error) error {
	if err != nil {
		return err
	}
	file, err := os.OpenFile(appender.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(line, '\n'))
	return errors.Join(err, file.Close())
}
