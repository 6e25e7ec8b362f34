#Requires -Version 5.1
<#
.SYNOPSIS
Installs a training worker on this PC, enrols it, and starts it at every boot.

.DESCRIPTION
An operator's "cis490-jobs invite HOST" prints the command. It may be run again at any moment: what is right stays,
newer code takes the old one's place after the worker has given its job back. The guide is
docs/guides/add-a-windows-host.md. This finds a Python; what is done is in training\fleet\install.

.PARAMETER Receiver
Address of the receiver.
.PARAMETER HostName
Name to enrol under, the one of the invite.
.PARAMETER Code
One-time code of the invite; left out, it comes from the variable CIS490_INVITE or is asked for.
.PARAMETER CaSha256
Fingerprint of the receiver's certificate authority.
.PARAMETER Dataset
NAME=FOLDER of a dataset; several separated by commas. Later runs keep what was given.
.PARAMETER Python
The python.exe to use, 3.11 or newer and installed for all users.
.PARAMETER WithoutTrainer
Leaves out the packages of the project's own trainer.
.PARAMETER Torch
Build of torch to install: auto, cpu, cuda or none. Later runs keep what was given. The package index has the one for
the CPU alone, so cuda needs -TorchIndex.
.PARAMETER TorchIndex
Address of the package index that torch comes from; torch's own install page names it.
.PARAMETER Pause
Stops the worker and keeps it stopped, over reboots as well, until -Resume.
.PARAMETER Resume
Lets a paused worker work again.
.PARAMETER Uninstall
Removes task, code and secret; settings and runs stay.
.PARAMETER Purge
With -Uninstall: removes settings and runs as well.
.PARAMETER DryRun
Prints every change and makes none.

.EXAMPLE
powershell -ExecutionPolicy Bypass -File scripts\install-training-worker-windows.ps1 -Receiver https://receiver.example:8445 -HostName gpu-tower -Code CODE
.EXAMPLE
powershell -ExecutionPolicy Bypass -File scripts\install-training-worker-windows.ps1 -Uninstall
#>
[CmdletBinding()]
param(
    [string]$Receiver = '',
    [string]$HostName = '',
    [string]$Code = '',
    [string]$CaSha256 = '',
    [string[]]$Dataset = @(),
    [string]$Python = '',
    [switch]$WithoutTrainer,
    [string]$Torch = '',
    [string]$TorchIndex = '',
    [switch]$Pause,
    [switch]$Resume,
    [switch]$Uninstall,
    [switch]$Purge,
    [Alias('WhatIf')]
    [switch]$DryRun
)

function Install-Worker {
    $names = @('py', 'python')
    if ($Python) { $names = @($Python) }
    $words = @()
    if ($Uninstall) { $words += 'uninstall' }
    if ($Pause) { $words += 'pause' }
    if ($Resume) { $words += 'resume' }
    if ($words.Count -eq 0) { $words += 'install' }
    if ($Receiver) { $words += @('--receiver', $Receiver) }
    if ($HostName) { $words += @('--host', $HostName) }
    if ($CaSha256) { $words += @('--ca-sha256', $CaSha256) }
    if ($Dataset) { $words += @('--dataset', (($Dataset -join ',') + ',')) } # a backslash at the end would take the quote along
    if ($WithoutTrainer) { $words += '--without-trainer' }
    if ($Torch) { $words += @('--torch', $Torch) }
    if ($TorchIndex) { $words += @('--torch-index', $TorchIndex) }
    if ($Purge) { $words += '--purge' }
    if ($DryRun) { $words += '--dry-run' }
    if ($Code) { $env:CIS490_INVITE = $Code } # no list of processes shows it there
    try {
        foreach ($name in $names) {
            $found = Get-Command -Name $name -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
            if ($null -eq $found -or $found.Source -like '*\WindowsApps\*') { continue }
            & $found.Source -IBc 'import sys; sys.exit(sys.version_info < (3, 11))'
            if ($LASTEXITCODE -ne 0) { continue }
            [Environment]::CurrentDirectory = $env:SystemRoot # a folder that a program works in cannot be removed
            Push-Location -LiteralPath $env:SystemRoot -StackName cis490 # where py.exe works, which waits for Python
            & $found.Source -IB "$PSScriptRoot\installing.py" worker $words
            exit $LASTEXITCODE
        }
        [Console]::Error.WriteLine("install-training-worker-windows: found no Python 3.11 or newer under $($names -join ', ') (the one of the Microsoft Store does not count: a service cannot start it); install one for all users from python.org, or name its python.exe with -Python")
        exit 78
    }
    finally {
        Pop-Location -StackName cis490 -ErrorAction SilentlyContinue
        Remove-Item -LiteralPath 'Env:CIS490_INVITE' -ErrorAction SilentlyContinue
    }
}

Install-Worker
